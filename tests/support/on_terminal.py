"""The `desk` command on a terminal, and a copy of what the terminal shows on stdout."""

import os
import pty
import threading

from command.cli import main


def _copy(terminal: int, stdout: int) -> None:
    while shown := os.read(terminal, 65536):
        os.write(stdout, shown)


if __name__ == "__main__":  # not in the processes that it spawns
    terminal, ours = pty.openpty()
    threading.Thread(target=_copy, args=(terminal, os.dup(1)), daemon=True).start()
    os.dup2(ours, 1)
    main()

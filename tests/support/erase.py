"""A follower and its erasure in a process of its own, to be killed."""

import signal
import sys
from pathlib import Path
from threading import Event

from journal.sqlite import SqliteReader
from journal.sqlite_eraser import SqliteEraser
from service.erasure import Erasure
from service.follower import Follower


def main(folder: Path) -> None:
    """Work in a folder until SIGTERM: `python -m tests.support.erase DIR`."""
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    path = folder / "journal.db"
    follower = Follower(SqliteReader(path), folder, idle=0.02)
    Erasure(
        lambda: SqliteEraser(path), folder, follower.note_deleted, pause=0.02, retry=0.05
    ).start(stop)
    follower.run(stop)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

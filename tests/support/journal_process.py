"""A process that appends to a journal or follows one, and reports its work: for killing it.

Run as `python -m tests.support.journal_process <command> <path> …`; see the functions.
"""

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from journal.errors import Unavailable
from journal.sqlite import SqliteReader, SqliteWriter
from tests.support.journals import PATIENCE, append

ROOT = Path(__file__).parents[2]


@contextmanager
def running(command: str, path: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, command, str(path), *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        with process:
            yield process
            process.kill()
    finally:
        process.kill()


def report(*words: object) -> None:
    """Write one line to the pipe, whole: threads share it and the process may be killed."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def append_for_ever(path: Path, name: str, threads: int) -> None:
    """Append from `threads` threads until killed; report the name and revision of each."""
    journal = SqliteWriter(path)

    def work(thread: int) -> None:
        for n in range(1_000_000):
            entry = f"{name}-{thread}-{n}"
            report(entry, append(journal, entry).revision)

    for thread in range(threads):
        threading.Thread(target=work, args=(thread,)).start()


def follow(path: Path) -> None:
    """Report the revision of every entry as it comes, until killed."""
    journal = SqliteReader(path)
    report("ready")
    after = 0
    while True:
        journal.wait(after, timeout=PATIENCE)
        for entry in journal.read(after, limit=100):
            after = entry.revision
            report(after)


def fill_the_disk(path: Path) -> None:
    """Append until files may grow no more, then let them grow again; report the outcome."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    journal = SqliteWriter(path)
    for name in range(1000):
        try:
            append(journal, name, body=b"x" * 5000)
        except Unavailable:
            break
    report("full", journal.head())
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    report("appended", append(journal, name, body=b"x" * 5000).revision)
    journal.close()


def main(command: str, path: str, *arguments: str) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if command == "append":
        append_for_ever(Path(path), arguments[0], int(arguments[1]))
    else:
        {"follow": follow, "fill": fill_the_disk}[command](Path(path))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Files on the disk: written for good, and those of a SQLite database told apart.

SQLite goes on writing a file that was deleted or replaced, without an error.
"""

import os
from pathlib import Path
from typing import NamedTuple

Identity = tuple[int, int] | None
"""Device and number of a file; None if there is none."""


class DatabaseFiles(NamedTuple):
    """The files at a path."""

    database: Identity
    wal: Identity
    shm: Identity

    @classmethod
    def at(cls, path: Path) -> "DatabaseFiles":
        """Look at the files of the database at `path`."""
        return cls._make(_identity(f"{path}{suffix}") for suffix in ("", "-wal", "-shm"))

    def replaced_by(self, now: "DatabaseFiles") -> bool:
        """Return True if a reader that has these open has to open those that are there now.

        Deleted ones can be read until the writer has made new ones.
        """
        return now.database != self.database or any(
            there not in (None, opened) for there, opened in zip(now, self, strict=True)
        )

    def written_at(self, now: "DatabaseFiles") -> bool:
        """Return True if a writer that has these open writes what is there now: all three files."""
        return now == self and None not in now


def sync(path: Path) -> None:
    """Write a file or a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _identity(path: str) -> Identity:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino

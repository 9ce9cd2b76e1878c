"""Copies the journal while it is in use, and checks the copy: backup.py JOURNAL DIRECTORY.

Stands alone: the container that runs it has Python and no more.
"""

import os
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path


def back_up(journal: Path, directory: Path) -> Path:
    """Return the file of the copy. It appears under its name when it is complete and checked.

    Raises:
        OSError: the directory cannot be written to.
        sqlite3.Error: the journal cannot be read, or the copy is damaged.
    """
    os.umask(0o077)
    file = directory / f"journal-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.db"
    partial = file.with_suffix(".partial")
    try:
        _copy(journal, partial)
        return partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)


def _copy(journal: Path, file: Path) -> None:
    with (
        closing(sqlite3.connect(f"{journal.absolute().as_uri()}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(file)) as copy,
    ):
        source.backup(copy)  # in one step: page by page it would start again with each callback
        copy.execute("PRAGMA journal_mode = DELETE")
        (found,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(f"the copy is damaged: {found}")


def main() -> None:
    """Run the command."""
    journal, directory = map(Path, sys.argv[1:])
    try:
        print(back_up(journal, directory))
    except (OSError, sqlite3.Error) as error:
        sys.exit(f"backup: {error}")


if __name__ == "__main__":
    main()

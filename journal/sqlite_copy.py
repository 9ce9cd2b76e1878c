"""The target of a copy that is a journal's file, which nobody else writes."""

from collections.abc import Sequence
from pathlib import Path

import apsw
from msgspec.structs import astuple

from journal import sqlite_format
from journal.entry import Entry
from journal.errors import Damaged, OtherEntries
from journal.sqlite_file import map_errors
from journal.sqlite_page import COLUMNS, HEAD, read_page

# A file has each id once: a repetition that came after NATS had forgotten the first copy is left
# out. The fold passes over it as well.
INSERT = f"""
INSERT INTO entries ({", ".join(COLUMNS)}) VALUES ({", ".join("?" * len(COLUMNS))})
ON CONFLICT (id) DO NOTHING
"""  # noqa: S608
FIRST = "SELECT min(revision) FROM entries WHERE id = ?"
OLDEST = "SELECT oldest_revision FROM header"
BEGIN = "UPDATE header SET journal_id = ?, oldest_revision = ?"


class FileTarget:
    """`journal.copying.Target` in one file, without a WAL."""

    def __init__(self, path: Path, journal_id: str, *, oldest: int) -> None:
        """Open the file, or make it a new journal that begins at revision `oldest`.

        Raises:
            Unavailable: it is in use, or the storage failed.
            Unreadable: it is no journal, of a newer version, or damaged.
            OtherEntries: it is another journal.
        """
        self._path = path
        with map_errors(path):
            path.touch(mode=0o600)
            self._connection = connection = apsw.Connection(str(path))
            try:
                connection.pragma("journal_mode", "delete")
                if sqlite_format.is_empty(connection):
                    with connection:
                        sqlite_format.create(connection)
                        connection.execute(BEGIN, (journal_id, oldest))
                version = sqlite_format.version(connection, str(path))
                sqlite_format.migrate(connection, version, str(path))
                self.id = sqlite_format.journal_id(connection)
            except BaseException:
                connection.close()
                raise
        if self.id != journal_id:
            self.close()
            raise OtherEntries(f"{path} is another journal")

    def read(self, after: int, *, limit: int) -> list[Entry]:
        with map_errors(self._path):
            entries, problem = read_page(self._connection, after, limit)
        if problem and not entries:
            raise Damaged(f"{self._path}: the entry after revision {after}: {problem}")
        return entries

    def head(self) -> int:
        return self._number(HEAD)

    def oldest(self) -> int:
        return self._number(OLDEST)

    def last(self) -> Entry | None:
        return next(iter(self.read(self.head() - 1, limit=1)), None)

    def write(self, after: int, entries: Sequence[Entry]) -> int:
        with map_errors(self._path), self._connection:
            self._connection.executemany(INSERT, map(astuple, entries))
        return entries[-1].revision

    def repeats(self, entry: Entry) -> bool:
        return 0 < self._number(FIRST, entry.id) < entry.revision

    def close(self) -> None:
        self._connection.close()

    def _number(self, query: str, *values: bytes) -> int:
        with map_errors(self._path):
            return int(self._connection.execute(query, values).get or 0)

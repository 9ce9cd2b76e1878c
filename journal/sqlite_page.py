"""Entries as they stand in a journal's file, read in spite of damage."""

import apsw

from journal.entry import Entry
from journal.port import READ_BYTES

COLUMNS = Entry.__struct_fields__
HEAD = "SELECT ifnull(max(revision), 0) FROM entries"
READ = f"""
SELECT {", ".join(COLUMNS)} FROM entries WHERE revision > ? ORDER BY revision LIMIT ?
"""  # noqa: S608


class OutOfOrder(Exception):
    """A revision is not greater than the one before it."""


def read_page(
    connection: apsw.Connection, after: int, limit: int
) -> tuple[list[Entry], Exception | None]:
    """Read entries up to the first that is damaged, and the problem with that.

    One more is read than returned, to see that the last one is in order: SQLite trusts the numbers
    in the rows, and they may have changed.
    """
    entries: list[Entry] = []
    problem: Exception | None = None
    before, last, room = after, after, READ_BYTES
    rows = connection.cursor()
    try:
        for row in rows.execute(READ, (after, limit + 1)):
            entry = Entry(**dict(zip(COLUMNS, row, strict=True)))
            if entry.revision <= last:
                if entry.revision > before:  # the one before it is out of order
                    entries = entries[:-1]
                problem = OutOfOrder(f"revision {entry.revision} stands behind {last}")
                break
            if len(entries) == limit or room <= 0:
                break
            entries.append(entry)
            before, last = last, entry.revision
            room -= len(entry.body)
    except (apsw.CorruptError, UnicodeDecodeError) as error:
        problem = error
    finally:
        rows.close(True)  # an open statement would keep the WAL from being used again
    return entries, problem

"""Reads a journal's file in spite of damage, and says where the damage is.

An entry's id is a digest of its app and body, so that a changed bit is found in either.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import apsw

from callback.decoder import identify
from journal.entry import DAMAGED, MAX_INTEGER, Entry, Kind
from journal.forgetting import forget_list_of
from journal.sqlite_page import HEAD, read_page

HEADER = "SELECT oldest_revision, (SELECT min(revision) FROM entries) FROM header"

PAGE = 500
"""Entries read at once: a cursor that stays open would keep the WAL from being used again."""

MAX_FAULTS = 20
"""Faults of the file's structure that are listed."""

ReportProgress = Callable[[str, int, int], None]
"""Takes the name of the work under way, the amount done, and the total."""


class Damage(NamedTuple):
    """A stretch of revisions that cannot be used. `last` is None if it may go on to the end."""

    first: int
    last: int | None
    problem: str

    def __str__(self) -> str:
        """Return one line for people."""
        if self.last == self.first:
            return f"revision {self.first}: {self.problem}"
        last = "the end" if self.last is None else self.last
        return f"revisions {self.first} to {last}: {self.problem}"


def scan(connection: apsw.Connection) -> Iterator[Entry | Damage]:
    """Read all entries in order, and a `Damage` for each stretch that cannot be read."""
    after = 0
    while True:
        entries, problem = read_page(connection, after, PAGE)
        yield from entries
        after = entries[-1].revision if entries else after
        if problem:
            following = _readable_after(connection, after)
            yield Damage(after + 1, following and following - 1, f"it cannot be read: {problem}")
            if following is None:
                return
            after = following - 1
        elif not entries:
            return


def changed(entry: Entry) -> bool:
    """Return True if an entry is not the one that was appended."""
    try:
        if entry.kind == Kind.FORGET:
            forget_list_of(entry)
            return False
        is_callback = identify(entry.sdk_app_id, entry.body) == entry.id
    except (TypeError, ValueError):  # a changed bit can change the type of a value
        return True
    return is_callback is not (entry.kind == Kind.CALLBACK)


def damages(connection: apsw.Connection, report: ReportProgress) -> Iterator[Damage]:
    """Check every entry."""
    head = _head(connection)
    for found in scan(connection):
        if isinstance(found, Damage):
            yield found
        else:
            if changed(found):
                yield Damage(found.revision, found.revision, DAMAGED)
            if found.revision % PAGE == 0 or found.revision == head:
                report("checking entries", found.revision, head)


def faults(connection: apsw.Connection) -> list[str]:
    """Check the structure of a SQLite file, indexes included; return its faults."""
    try:
        found = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({MAX_FAULTS})")]
    except apsw.Error as error:
        found = [str(error)]
    return [" ".join(line.split()) for line in found if line != "ok"]


def header_faults(connection: apsw.Connection) -> list[str]:
    """Check the header of a journal; return its faults."""
    try:
        oldest, first = connection.execute(HEADER).get
    except apsw.Error as error:
        return [f"the header cannot be read: {error}"]
    if first and first < oldest:
        return [f"the header has {oldest} as the oldest revision, and there is revision {first}"]
    return []


def _head(connection: apsw.Connection) -> int:
    try:
        return int(connection.execute(HEAD).get)
    except apsw.CorruptError:
        return 0


def _readable_after(connection: apsw.Connection, after: int) -> int | None:
    """Return the revision of the first entry behind a stretch that cannot be read, if any."""
    bad, step = after, 1
    while (good := _first_after(connection, bad_end := after + step)) is None:
        bad, step = bad_end, step * 2
        if bad + step > MAX_INTEGER:
            return None
    while bad_end - bad > 1:
        middle = (bad + bad_end) // 2
        found = _first_after(connection, middle)
        if found is None:
            bad = middle
        else:
            good, bad_end = found, middle
    return good


def _first_after(connection: apsw.Connection, revision: int) -> int | None:
    """Return the revision of the next entry; None if there is none or it cannot be read."""
    entries, _ = read_page(connection, revision, limit=1)
    return entries[0].revision if entries else None

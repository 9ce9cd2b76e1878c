"""Entries of the journal as a view has kept them, and the check of a view against its journal.

A view stores every body with its revision. Reads only.
"""

from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import closing
from heapq import merge
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import apsw
from google.protobuf.message import DecodeError

from desk.v1.event_pb2 import SessionRecord
from journal.damage import Damage, faults
from journal.entry import DAMAGED, Entry, Kind
from service.arrival import arrival_of
from service.positions import ORDINAL_BITS, position_of, revision_of
from service.records import forget_entry_of, is_forgotten
from service.view.digest import row_hash
from service.view.errors import sqlite_errors
from service.view.progress import LOAD, Progress
from service.view.store import open_reader

IS_FIRST = f"position & {(1 << ORDINAL_BITS) - 1} = 0"
"""The condition for the first row of a revision: that has the event, and is not revised."""
ENTRIES = f"SELECT record FROM feed WHERE {IS_FIRST} ORDER BY position"  # noqa: S608
COMPARED = """
    record,
    event_revision, sdk_app_id, session_id, type, verdict, reason, client_user_id, channel_type
"""
"""The columns for `difference`."""
FEED = f"SELECT position, session, {COMPARED} FROM feed ORDER BY position"  # noqa: S608
OTHER_SESSIONS = """
SELECT number FROM sessions WHERE session IS NOT (
    SELECT session FROM feed WHERE position = (
        SELECT max(position) FROM feed
        WHERE first_revision = sessions.first_revision AND revised IN (0, 2)
    )
)
"""

WITHOUT_RECORD = """
SELECT revision FROM repetitions WHERE revision > ?1 AND revision <= ?2
UNION SELECT revision FROM entries_to_delete WHERE revision > ?1 AND revision <= ?2
"""
"""Entries that have no record in the feed: repetitions, and those that were forgotten."""

FIND_ROW = "SELECT 1 FROM feed WHERE position = ?"

revision_of_entry = attrgetter("revision")


def entries_of(view: Path) -> Iterator[Entry]:
    """Read the entries that a view was made of, also those that were damaged before.

    FORGET entries get other ids, and lack the revision up to which they apply.

    Raises:
        ViewError: the view cannot be read.
    """
    with sqlite_errors(), closing(open_reader(view)) as db:
        for (record,) in db.execute(ENTRIES):
            if is_forgotten(record):
                yield forget_entry_of(record)
            elif (made := _parsed(record)) and (entry := _entry(made)):
                yield entry


def merged(first: Iterable[Entry], second: Iterable[Entry]) -> Iterator[Entry]:
    """Join entries in order of revision; of two with the same revision, take the first."""
    both = merge(first, second, key=revision_of_entry)
    for _, same in groupby(both, key=revision_of_entry):
        yield next(same)


class Checked(NamedTuple):
    """The result of `check`; `faults` are those of the file as a whole."""

    revision: int
    damages: list[Damage]
    faults: list[str]


def check(view: Path, journal_id: str, journal: Iterable[Entry]) -> Checked:
    """Compare a view with its journal's entries, in order, that can be read.

    Checks each event, its entry in the journal, the columns beside it, the sessions, the digest of
    the feed, and the structure of the file.

    Raises:
        ViewError: the view cannot be read.
    """
    with sqlite_errors(), closing(open_reader(view)) as db:
        db.execute("BEGIN")
        found = faults(db)
        progress = Progress.of_row(db.execute(LOAD).fetchone())
        if progress.journal_id != journal_id:
            found.append("it is the view of another journal")
        total = 0
        damages: list[Damage] = []

        def note(revision: int, problem: str) -> None:
            damages.append(Damage(revision, revision, problem))

        cursor = JournalCursor(journal, without_record(db, 0, progress.applied_revision), note)
        for position, session, record, *columns in db.execute(FEED):
            total += row_hash(position, record, session)
            revision = revision_of(position)
            if position != revision << ORDINAL_BITS or is_forgotten(record):
                continue
            problem = difference(record, columns, cursor.at(revision))
            if problem and not forgotten_since(view, revision):
                note(revision, problem)
        cursor.pass_over(progress.applied_revision)
        for (number,) in db.execute(OTHER_SESSIONS):
            note(number, "the view has another session than its feed")
        if not progress.fits(total):
            found.append("its feed has another digest than the one that it was written with")
    return Checked(progress.applied_revision, damages, found)


def without_record(db: apsw.Connection, after: int, until: int) -> set[int]:
    """Return the revisions between two for which the feed need not have a record."""
    return {revision for (revision,) in db.execute(WITHOUT_RECORD, (after, until))}


class JournalCursor:
    """A cursor over the journal's entries, moved by the revisions of the view, both in order.

    Args:
        entries: of the journal.
        without_record: revisions that need no record in the view.
        note: called with the revision of an entry that the view lacks, and the problem.
    """

    def __init__(
        self,
        entries: Iterable[Entry],
        without_record: Container[int],
        note: Callable[[int, str], None],
    ) -> None:
        self._entries = iter(entries)
        self._next = next(self._entries, None)
        self._without_record = without_record
        self._note = note

    def at(self, revision: int) -> Entry | None:
        """Move to a revision, and return its entry; None if there is none."""
        self.pass_over(revision - 1)
        if self._next and self._next.revision == revision:
            entry, self._next = self._next, next(self._entries, None)
            return entry
        return None

    def pass_over(self, until: int) -> None:
        """Move behind a revision, and check the entries in between: the view has none of them."""
        while self._next and self._next.revision <= until:
            entry, self._next = self._next, next(self._entries, None)
            if entry.kind == Kind.CALLBACK and entry.revision not in self._without_record:
                self._note(entry.revision, "the view lacks an entry that the journal has")


def forgotten_since(view: Path, revision: int) -> bool:
    """Return True if the view no longer has an entry, which an older snapshot still has."""
    with closing(open_reader(view)) as now:
        return not now.execute(FIND_ROW, (position_of(revision),)).fetchone()


def difference(record: bytes, columns: list[object], entry: Entry | None) -> str:
    """Compare an entry as the view has it with the journal's; "" if they are equal and whole."""
    made = _parsed(record)
    kept = made and _entry(made)
    if made is None or kept is None:
        return "the view has a record that cannot be read"
    if columns != _columns(made):
        return "the view has a record that does not fit its columns"
    if entry is None:
        return "the view has an entry that the journal lacks, or cannot read"
    if entry != kept:
        return "the view has another entry than the journal"
    return DAMAGED if arrival_of(kept).problem is DAMAGED else ""


def _columns(made: SessionRecord) -> list[object]:
    event = made.event
    return [
        *(event.revision, event.sdk_app_id, event.session_id, event.type),
        *(made.verdict, made.rejection_reason, event.client_user_id, event.channel_type),
    ]


def _parsed(record: bytes) -> SessionRecord | None:
    try:
        return SessionRecord.FromString(record)
    except DecodeError:
        return None


def _entry(made: SessionRecord) -> Entry | None:
    event = made.event
    try:
        identity = bytes.fromhex(event.id)
    except ValueError:
        return None
    return Entry(
        revision=event.revision,
        id=identity,
        sdk_app_id=event.sdk_app_id,
        received_at=event.received_at.ToMilliseconds(),
        request_id=event.request_id,
        client_ip=event.client_ip,
        platform=event.platform,
        body=event.raw_body,
    )

"""Entries of the journal as a view has kept them, and the check of a view against its journal.

A view stores every body with its revision. Reads only.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from heapq import merge
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from desk.v1.event_pb2 import SessionRecord
from google.protobuf.message import DecodeError

from journal.damage import Damage, changed
from journal.entry import DAMAGED, Entry
from service.positions import ORDINAL_BITS, revision_of
from service.projection import DIGESTS, row_hash
from service.view.errors import sqlite_errors
from service.view.progress import LOAD, Progress
from service.view.store import open_reader

OWN = f"position & {(1 << ORDINAL_BITS) - 1} = 0"
"""The condition for the first row of a revision, which has the event."""
ENTRIES = f"SELECT record FROM feed WHERE {OWN} ORDER BY position"  # noqa: S608
FEED = "SELECT position, record, session FROM feed ORDER BY position"

revision_of_entry = attrgetter("revision")


def entries_of(view: Path) -> Iterator[Entry]:
    """Read the entries that a view was made of, but for those that were damaged already.

    Raises:
        ViewError: the view cannot be read.
    """
    with sqlite_errors(), closing(open_reader(view)) as db:
        for (record,) in db.execute(ENTRIES):
            entry = _entry(record)
            if entry and not changed(entry):
                yield entry


def merged(first: Iterable[Entry], second: Iterable[Entry]) -> Iterator[Entry]:
    """Join entries in order of revision; of two with the same revision, take the first."""
    both = merge(first, second, key=revision_of_entry)
    for _, same in groupby(both, key=revision_of_entry):
        yield next(same)


def check(view: Path, journal: Iterable[Entry]) -> tuple[Progress, list[Damage]]:
    """Compare a view with the journal's entries, in order, that can be read.

    Checks the id of each event, its entry in the journal, and the digest of the feed.

    Raises:
        ViewError: the view cannot be read.
    """
    damages: list[Damage] = []
    total = 0
    entries = iter(journal)
    entry = next(entries, None)
    with sqlite_errors(), closing(open_reader(view)) as db:
        db.execute("BEGIN")
        progress = Progress.of_row(db.execute(LOAD).fetchone())
        for position, record, session in db.execute(FEED):
            total += row_hash(position, record, session)
            revision = revision_of(position)
            if position != revision << ORDINAL_BITS:
                continue
            while entry and entry.revision < revision:
                entry = next(entries, None)
            if problem := _problem(_entry(record), entry):
                damages.append(Damage(revision, revision, problem))
        db.execute("COMMIT")
    if total % DIGESTS != int.from_bytes(progress.digest):
        everything = Damage(1, progress.applied_revision, "the digest of the view is another")
        damages.append(everything)
    return progress, damages


def _problem(kept: Entry | None, entry: Entry | None) -> str:
    """Compare an entry as the view has it with the journal's, or with the next one."""
    if kept is None:
        return "the view has a record that cannot be read"
    if entry is None or entry.revision != kept.revision:
        return "the view has an entry that the journal lacks, or cannot read"
    if entry.id != kept.id or entry.body != kept.body:
        return "the view has another entry than the journal"
    return DAMAGED if changed(kept) else ""


def _entry(record: bytes) -> Entry | None:
    try:
        event = SessionRecord.FromString(record).event
        identity = bytes.fromhex(event.id)
    except (DecodeError, ValueError):
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

"""Checks of a view before it is published or used: that it is whole, and of this journal."""

from contextlib import closing
from pathlib import Path

import apsw

from journal.damage import faults
from journal.errors import NotKept, Unreadable
from journal.port import JournalReader
from service.recovery import OTHER_SESSIONS
from service.snapshots.stored import Snapshot
from service.view import store
from service.view.digest import row_hash
from service.view.errors import ViewDamaged, sqlite_errors
from service.view.progress import LOAD, Progress

FEED = "SELECT position, record, session FROM feed ORDER BY position"


def read_progress(db: apsw.Connection) -> Progress:
    return Progress.of_row(db.execute(LOAD).fetchone())


def check_view(copy: Path) -> Progress:
    """Check the structure of a view, the digest of its feed, its sessions; return its progress.

    Raises:
        ViewDamaged: one of them is wrong.
    """
    with sqlite_errors(), closing(store.open_reader(copy)) as db:
        if found := faults(db):
            raise ViewDamaged(found[0])
        progress = read_progress(db)
        for (number,) in db.execute(OTHER_SESSIONS):
            raise ViewDamaged(f"session {number} is another one than in the feed")
        total = sum(row_hash(*row) for row in db.execute(FEED))
    if not progress.fits(total):
        raise ViewDamaged("its feed has another digest than the one that it was written with")
    return progress


def check_label(snapshot: Snapshot, progress: Progress) -> None:
    found = (progress.fingerprint, progress.journal_id, progress.applied_revision, progress.digest)
    if found != snapshot[1:5] or not progress.complete:
        raise Unreadable("it is not what its label says")


def check_journal(progress: Progress, journal: JournalReader) -> None:
    """Check that the journal has the last entry of a view, which may be removed, and the next."""
    applied = progress.applied_revision
    if progress.journal_id != journal.id:
        raise Unreadable("the journal is another one")
    head_from(journal, applied)
    try:
        page = journal.read(max(0, applied - 1), limit=1)
    except NotKept as removed:
        if removed.oldest > applied + 1:
            raise Unreadable(f"revisions {applied + 1} to {removed.oldest - 1} are gone") from None
        return
    if page and page[0].revision == applied and page[0].id != progress.applied_id:
        raise Unreadable("the journal has other entries")


def head_from(journal: JournalReader, revision: int) -> int:
    """Return the journal's head, which must not be before a revision."""
    head = journal.head()
    if head < revision:
        raise Unreadable(f"it is newer than the journal, which ends at {head}")
    return head

"""Publishing snapshots: copy the view, check the copy, store it, and delete the superseded ones."""

import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import BinaryIO, cast

import msgspec
import structlog
import zstandard

from journal.backup import copy_database, require_room, temporary
from journal.damage import ReportProgress
from journal.errors import Closed
from journal.jetstream_objects import KEEP
from metrics.definitions import SNAPSHOT_FAILURES, SNAPSHOT_REVISION, SNAPSHOT_STORED
from service.positions import revision_of
from service.snapshots.checks import check_journal, check_view, read_progress
from service.snapshots.stored import FAILURES, FORMAT, Label, Snapshot, Snapshots
from service.view import store
from service.view.errors import ViewUnavailable, sqlite_errors
from service.view.progress import Progress
from service.view.reader import Reader
from storage.gaps import clear_gaps

KEPT = 2
"""Snapshots of this version that are kept. Of another version one is kept, for `KEEP_OTHERS`."""

KEEP_OTHERS = 24 * 60 * 60.0
"""Seconds for which the one of another version is kept, for a rollback."""

FEWEST = 10_000
"""Entries by which a new snapshot must be ahead: fewer are replayed within a second."""

LOOK_EVERY = 10.0
"""Seconds between two checks for a snapshot that is due."""

HOUR = 60 * 60.0

log = structlog.get_logger()


class Publisher:
    """Publishes snapshots of this replica's view, and deletes those that are not needed.

    Args:
        snapshots: those that are there.
        fewest: entries by which a new snapshot must be ahead of the one before.
    """

    def __init__(self, snapshots: Snapshots, *, fewest: int = FEWEST) -> None:
        self._snapshots = snapshots
        self._objects = snapshots.objects
        self._journal = snapshots.journal
        self._view = snapshots.view
        self._fewest = fewest
        self._newest: Snapshot | None = None  # as found by the last look

    def keep_published(self, stop: Event, hours: int) -> None:
        """Publish a snapshot whenever none of this version is younger than `hours`, until `stop`.

        Of several replicas that do so, one publishes.
        """
        SNAPSHOT_STORED.read_number(lambda: self._newest and self._newest.stored_at)
        SNAPSHOT_REVISION.read_number(lambda: self._newest and self._newest.revision)
        while not stop.wait(LOOK_EVERY):
            try:
                self.delete_forgotten()
                self.publish_if_due(hours * HOUR, _until(stop))
            except ViewUnavailable:  # it is not there yet
                continue
            except Closed:
                return
            except Exception as problem:  # the next attempt may succeed
                SNAPSHOT_FAILURES.values[()] += 1
                is_known = isinstance(problem, FAILURES)
                log.warning(
                    "snapshot_not_published",
                    reason=str(problem),
                    throttle="",
                    exc_info=not is_known,
                )

    def publish_if_due(
        self, age: float, report: ReportProgress = lambda *_: None
    ) -> Snapshot | None:
        """Publish a snapshot if there is none of less than `age` seconds, and nobody else does."""
        with sqlite_errors(), closing(store.open_reader(self._view)) as db:
            progress = read_progress(db)
        # Those ahead of the journal are of entries that are gone since a restore of it.
        own, head = self._snapshots.of_this_version(), self._journal.head()
        self._newest = newest = next((each for each in own if each.revision <= head), None)
        is_sound = progress.complete and not progress.problem
        if not is_sound or not self._is_due(progress.applied_revision, newest, age):
            return None
        check_journal(progress, self._journal)
        require_room(self._view.parent, self._view.stat().st_size)
        name = f"{store.fingerprint()}-{newest.revision if newest else 0}"
        if not self._objects.claim(name):
            return None
        self._objects.delete_incomplete(store.fingerprint())
        return self.publish(report)

    def delete_forgotten(self) -> None:
        """Delete the snapshots with something that this replica's view has forgotten since."""
        with closing(Reader(self._view)) as view:
            position = view.last_forgotten()
        for each in self._snapshots.newest_first() if position else ():
            if each.journal_id == self._journal.id and each.revision < revision_of(position):
                self._objects.delete(each.stored)
                log.info("snapshot_forgotten", name=each.stored.name)

    def _is_due(self, revision: int, newest: Snapshot | None, age: float) -> bool:
        if newest is None:
            return revision >= self._fewest
        ahead = revision - newest.revision
        passed = time.time() - newest.stored_at
        if not 0 <= passed < KEEP / 2:  # the object store will delete it, or a clock was wrong
            return ahead >= 0
        return passed >= age and ahead >= self._fewest

    def publish(self, report: ReportProgress) -> Snapshot:
        """Copy the view, which may be in use, check the copy, and store it.

        Raises:
            NoRoom, OSError: the disk has no room for the copy.
            Unavailable: NATS cannot take it.
            Unreadable: the journal has other entries than the view.
            ViewError: there is no view yet, or it is damaged.
        """
        began = time.monotonic()
        with temporary(self._view.parent, "snapshot") as copy:
            progress = self._copy_checked(copy, report)
            check_journal(progress, self._journal)
            self._make_room()
            self._newest = made = self._store(copy, progress, report)
        seconds = round(time.monotonic() - began, 1)
        name, size = made.stored.name, made.stored.size
        log.info("snapshot_published", name=name, bytes=size, after_s=seconds)
        return made

    def _store(self, copy: Path, progress: Progress, report: ReportProgress) -> Snapshot:
        size = copy.stat().st_size
        label = Label(
            format=FORMAT,
            fingerprint=progress.fingerprint,
            journal=progress.journal_id,
            revision=str(progress.applied_revision),
            digest=progress.digest.hex(),
            bytes=str(size),
        )
        name = f"{progress.fingerprint}-{progress.applied_revision}"
        with copy.open("rb") as file:
            source = cast(BinaryIO, _Reported(file, size, report))
            packer = zstandard.ZstdCompressor(write_checksum=True)
            packed = packer.stream_reader(source, size=size)
            made = Snapshot.of(self._objects.put(name, packed, msgspec.to_builtins(label)))
        if made is None:
            raise AssertionError("the label that was just made cannot be read")
        return made

    def _make_room(self) -> None:
        """Delete all but the newest snapshots of each version, and those that nobody will load."""
        found, head = self._snapshots.newest_first(), self._journal.head()
        oldest, kept = time.time() - KEEP_OTHERS, Counter[str]()
        for each in found:
            is_usable = each.journal_id == self._journal.id and each.revision <= head
            is_kept = each.fingerprint == store.fingerprint() or each.stored_at > oldest
            if is_usable and is_kept and kept[each.fingerprint] < KEPT - 1:
                kept[each.fingerprint] += 1
            else:
                self._objects.delete(each.stored)

    def _copy_checked(self, copy: Path, report: ReportProgress) -> Progress:
        with sqlite_errors(), closing(store.open_reader(self._view)) as db:
            require_room(copy.parent, self._view.stat().st_size)
            if not read_progress(db).complete:
                raise ViewUnavailable("the view is not complete yet")
            copy_database(db, copy, report)
        clear_gaps(str(copy), store.PAGE)  # with the last that was forgotten
        return check_view(copy)


def _until(stop: Event) -> ReportProgress:
    """Make a report that ends the work that is reported when `stop` is set."""

    def check(*_: object) -> None:
        if stop.is_set():
            raise Closed("stopped")

    return check


class _Reported:
    """A file whose reading is reported."""

    def __init__(self, file: BinaryIO, size: int, report: ReportProgress) -> None:
        self._file = file
        self._size = size
        self._report = report

    def read(self, size: int = -1, /) -> bytes:
        part = self._file.read(size)
        self._report("storing", self._file.tell(), self._size)
        return part

"""Snapshots of the view in an object store, from which a new replica starts.

A snapshot is the view's file, compressed, with what identifies it. The journal stays the only
truth: a snapshot that is not whole, or of other entries, is not used, and the replica replays.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import BinaryIO, NamedTuple, Self, cast

import apsw
import msgspec
import structlog
import zstandard

from journal.backup import copy_database, require_room, sync, temporary
from journal.damage import Report, faults
from journal.errors import Closed, JournalError, NotKept, Unavailable, Unreadable
from journal.jetstream_objects import KEEP, ObjectStore, StoredObject
from journal.port import JournalReader
from metrics.definitions import SNAPSHOT_FAILURES, SNAPSHOT_REVISION, SNAPSHOT_STORED
from service.positions import revision_of
from service.recovery import OTHER_SESSIONS
from service.view import store
from service.view.digest import row_hash
from service.view.errors import ViewDamaged, ViewError, ViewUnavailable, sqlite_errors
from service.view.progress import LOAD, Progress
from service.view.reader import Reader
from service.view.writer import lock
from storage.gaps import clear_gaps

FORMAT = "1"
"""Version of the stored format: a SQLite file in one zstd frame."""

KEEP_OTHERS = 24 * 60 * 60.0
"""Seconds for which that of another version is kept, as its view is: for a rollback."""

KEPT = 2
"""Snapshots of this version that are kept; of another version one, for `KEEP_OTHERS`."""

FEWEST = 10_000
"""Entries that a new snapshot must be ahead: fewer are replayed within a second."""

ATTEMPTS = 5
"""Snapshots that a replica tries at most, of which each may be the same one, before it replays."""

LOOK = 10.0
"""Seconds between two checks for a snapshot that is due."""

HOUR = 60 * 60.0

PART = 1024 * 1024
"""Bytes that are decompressed at once."""

FEED = "SELECT position, record, session FROM feed ORDER BY position"
NOT_CAUGHT_UP = "UPDATE progress SET complete = 0, head_revision = ?"

log = structlog.get_logger()

_FAILURES = (JournalError, ViewError, OSError, zstandard.ZstdError)


class Label(msgspec.Struct, frozen=True):
    """The metadata of a snapshot's object: texts, as the object store wants them."""

    format: str
    fingerprint: str
    journal: str
    revision: str
    digest: str
    bytes: str


class Snapshot(NamedTuple):
    """A snapshot in the object store.

    Attributes:
        size: bytes of the view.
        stored_at: Unix time in seconds, by the clock of the process that stored it.
    """

    stored: StoredObject
    fingerprint: str
    journal_id: str
    revision: int
    digest: bytes
    size: int
    stored_at: float

    @classmethod
    def of(cls, stored: StoredObject) -> Self | None:
        """Read the label of an object; None if it is none of a format that is known."""
        try:
            label = msgspec.convert(stored.metadata, Label)
            numbers = int(label.revision), bytes.fromhex(label.digest), int(label.bytes)
            stored_at = datetime.fromisoformat(stored.mtime).timestamp()
        except (msgspec.ValidationError, ValueError, OverflowError):
            return None
        if label.format != FORMAT:
            return None
        return cls(stored, label.fingerprint, label.journal, *numbers, stored_at)


class Snapshots:
    """The snapshots of one journal's views.

    Args:
        objects: where they are; closed by `close`.
        journal: of which they are.
        data_dir: the directory of this replica's view.
        fewest: entries that a new snapshot must be ahead of the one before.
    """

    def __init__(
        self,
        objects: ObjectStore,
        journal: JournalReader,
        data_dir: Path,
        *,
        fewest: int = FEWEST,
    ) -> None:
        self._objects = objects
        self._journal = journal
        self._view = store.locate(data_dir)
        self._fewest = fewest
        self._newest: Snapshot | None = None  # as found by the last look

    def newest_first(self) -> list[Snapshot]:
        """Return the snapshots of all versions, newest first."""
        found = [each for each in map(Snapshot.of, self._objects.all()) if each]
        return sorted(found, key=lambda each: (each.revision, each.stored_at), reverse=True)

    def _own(self) -> list[Snapshot]:
        """Return those of this version and this journal."""
        own = (store.fingerprint(), self._journal.id)
        return [each for each in self.newest_first() if (each.fingerprint, each.journal_id) == own]

    def close(self) -> None:
        self._objects.close()

    # ---- Publishing ----

    def keep_published(self, stop: Event, hours: int) -> None:
        """Publish a snapshot whenever none of this version is younger than `hours`, until `stop`.

        Of several replicas that do so, one publishes.
        """
        SNAPSHOT_STORED.read_number(lambda: self._newest and self._newest.stored_at)
        SNAPSHOT_REVISION.read_number(lambda: self._newest and self._newest.revision)
        while not stop.wait(LOOK):
            try:
                self.delete_forgotten()
                self.publish_if_due(hours * HOUR, _until(stop))
            except ViewUnavailable:  # it is not there yet
                continue
            except Closed:
                return
            except Exception as problem:  # whatever it is, the next attempt may do better
                SNAPSHOT_FAILURES.values[()] += 1
                is_known = isinstance(problem, _FAILURES)
                log.warning(
                    "snapshot_not_published",
                    reason=str(problem),
                    throttle="",
                    exc_info=not is_known,
                )

    def publish_if_due(self, age: float, report: Report = lambda *_: None) -> Snapshot | None:
        """Publish a snapshot if there is none of less than `age` seconds, and nobody else does."""
        with sqlite_errors(), closing(store.open_reader(self._view)) as db:
            progress = _progress(db)
        # Those ahead of the journal are of entries that are gone since a restore of it.
        own, head = self._own(), self._journal.head()
        self._newest = newest = next((each for each in own if each.revision <= head), None)
        is_sound = progress.complete and not progress.problem
        if not is_sound or not self._is_due(progress.applied_revision, newest, age):
            return None
        _check_journal(progress, self._journal)
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
        for each in self.newest_first() if position else ():
            if each.journal_id == self._journal.id and each.revision < revision_of(position):
                self._objects.delete(each.stored)
                log.info("snapshot_forgotten", name=each.stored.name)

    def _is_due(self, revision: int, newest: Snapshot | None, age: float) -> bool:
        if newest is None:
            return revision >= self._fewest
        ahead = revision - newest.revision
        passed = time.time() - newest.stored_at
        if passed >= KEEP / 2:  # the object store will delete it
            return ahead >= 0
        return passed >= age and ahead >= self._fewest

    def publish(self, report: Report) -> Snapshot:
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
            _check_journal(progress, self._journal)
            self._make_room()
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
                stored = self._objects.put(name, packed, msgspec.to_builtins(label))
        seconds = round(time.monotonic() - began, 1)
        log.info("snapshot_published", name=name, bytes=stored.size, after_s=seconds)
        made = Snapshot.of(stored)
        if made is None:
            raise AssertionError("the label that was just made cannot be read")
        self._newest = made
        return made

    def _make_room(self) -> None:
        """Delete all but the newest snapshots of each version, and those that nobody will load."""
        found, head = self.newest_first(), self._journal.head()
        oldest, kept = time.time() - KEEP_OTHERS, Counter[str]()
        for each in found:
            is_usable = each.journal_id == self._journal.id and each.revision <= head
            is_kept = each.fingerprint == store.fingerprint() or each.stored_at > oldest
            if is_usable and is_kept and kept[each.fingerprint] < KEPT - 1:
                kept[each.fingerprint] += 1
            else:
                self._objects.delete(each.stored)

    def _copy_checked(self, copy: Path, report: Report) -> Progress:
        with sqlite_errors(), closing(store.open_reader(self._view)) as db:
            require_room(copy.parent, self._view.stat().st_size)
            if not _progress(db).complete:
                raise ViewUnavailable("the view is not complete yet")
            copy_database(db, copy, report)
        clear_gaps(str(copy), store.PAGE)  # with the last that was forgotten
        return _checked(copy)

    # ---- Loading ----

    def load(self, stop: Event) -> None:
        """Put the newest usable snapshot in place, unless there is a view already.

        The view in place counts as not caught up. Without a usable snapshot it stays missing.

        Raises:
            InUse: another follower keeps the view.
        """
        if self._view.exists():
            return
        with ExitStack() as held:
            held.callback(lock(self._view).release)
            unusable: set[str] = set()
            for attempt in range(ATTEMPTS):
                try:
                    candidates = [each for each in self._own() if each.stored.nuid not in unusable]
                except _FAILURES as problem:
                    log.warning("snapshots_not_found", reason=str(problem))
                    if attempt:  # NATS was there before
                        continue
                    return
                if not candidates:
                    break
                if self._try_to_load(candidates[0], unusable, stop) or stop.is_set():
                    return
            log.info("no_snapshot", fingerprint=store.fingerprint(), found=len(unusable))

    def _try_to_load(self, snapshot: Snapshot, unusable: set[str], stop: Event) -> bool:
        """Put a snapshot in place; return False if that fails. NATS may be back when asked again.

        A snapshot that is deleted meanwhile is unusable; the list has the one that replaced it.
        """
        try:
            self._put_in_place(snapshot, stop)
        except _FAILURES as problem:
            if not stop.is_set():
                name = snapshot.stored.name
                log.warning("snapshot_not_usable", name=name, reason=str(problem))
            if not isinstance(problem, Unavailable):
                unusable.add(snapshot.stored.nuid)
            return False
        return True

    def _put_in_place(self, snapshot: Snapshot, stop: Event) -> None:
        began = time.monotonic()
        head = _head_from(self._journal, snapshot.revision)
        with _partial(self._view, snapshot.size) as copy:
            self._receive(snapshot, copy, stop)
            progress = _checked(copy)
            _check_label(snapshot, progress)
            _check_journal(progress, self._journal)
            with sqlite_errors(), closing(apsw.Connection(str(copy))) as db:
                db.execute(NOT_CAUGHT_UP, (head,))
            sync(copy)
            for suffix in ("-wal", "-shm"):  # of a view that was deleted
                Path(f"{self._view}{suffix}").unlink(missing_ok=True)
            os.replace(copy, self._view)
            sync(self._view.parent)
        seconds = round(time.monotonic() - began, 1)
        log.info("snapshot_loaded", revision=snapshot.revision, head=head, after_s=seconds)

    def _receive(self, snapshot: Snapshot, copy: Path, stop: Event) -> None:
        """Download and decompress a snapshot."""
        require_room(copy.parent, snapshot.size)
        source = self._objects.open(snapshot.stored)
        left = snapshot.size
        with copy.open("wb") as file:
            unpacker = zstandard.ZstdDecompressor()
            for part in unpacker.read_to_iter(cast(BinaryIO, source), write_size=PART):
                if stop.is_set():
                    raise Closed("stopped")
                left -= len(part)
                if left < 0:
                    break
                file.write(part)
        if left:
            raise Unreadable("it has another size than its label")
        source.check()


def _until(stop: Event) -> Report:
    """Make a report that ends the work that is reported when `stop` is set."""

    def check(*_: object) -> None:
        if stop.is_set():
            raise Closed("stopped")

    return check


def _progress(db: apsw.Connection) -> Progress:
    return Progress.of_row(db.execute(LOAD).fetchone())


def _checked(copy: Path) -> Progress:
    """Check the structure of a view, the digest of its feed, its sessions; return its progress.

    Raises:
        ViewDamaged: one of them is wrong.
    """
    with sqlite_errors(), closing(store.open_reader(copy)) as db:
        if found := faults(db):
            raise ViewDamaged(found[0])
        progress = _progress(db)
        for (number,) in db.execute(OTHER_SESSIONS):
            raise ViewDamaged(f"session {number} is another one than in the feed")
        total = sum(row_hash(*row) for row in db.execute(FEED))
    if not progress.fits(total):
        raise ViewDamaged("its feed has another digest than the one that it was written with")
    return progress


def _check_label(snapshot: Snapshot, progress: Progress) -> None:
    found = (progress.fingerprint, progress.journal_id, progress.applied_revision, progress.digest)
    if found != snapshot[1:5] or not progress.complete:
        raise Unreadable("it is not what its label says")


def _check_journal(progress: Progress, journal: JournalReader) -> None:
    """Check that the journal has the last entry of a view, which may be removed, and the next."""
    applied = progress.applied_revision
    if progress.journal_id != journal.id:
        raise Unreadable("the journal is another one")
    _head_from(journal, applied)
    try:
        page = journal.read(max(0, applied - 1), limit=1)
    except NotKept as removed:
        if removed.oldest > applied + 1:
            raise Unreadable(f"revisions {applied + 1} to {removed.oldest - 1} are gone") from None
        return
    if page and page[0].revision == applied and page[0].id != progress.applied_id:
        raise Unreadable("the journal has other entries")


def _head_from(journal: JournalReader, revision: int) -> int:
    """Return the journal's head, which must not be before a revision."""
    head = journal.head()
    if head < revision:
        raise Unreadable(f"it is newer than the journal, which ends at {head}")
    return head


class _Reported:
    """A file whose reading is reported."""

    def __init__(self, file: BinaryIO, size: int, report: Report) -> None:
        self._file = file
        self._size = size
        self._report = report

    def read(self, size: int = -1, /) -> bytes:
        part = self._file.read(size)
        self._report("storing", self._file.tell(), self._size)
        return part


@contextmanager
def _partial(view: Path, size: int) -> Iterator[Path]:
    """Give an empty file for a view of `size` bytes; delete it in the end, and older ones.

    The caller has the view's lock.
    """
    for abandoned in store.partials(view):
        abandoned.unlink()
    path = store.partial(view, size)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)

"""The spool's folder: entries on the local disk, in segments that are removed once forwarded.

It has the id of the journal that the entries are for, and segments `1.db`, `2.db`, …: each a
journal's file, with its forwarded position in a file beside it. Knows nothing of forwarding.
"""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from shutil import disk_usage
from time import monotonic
from typing import NamedTuple

import structlog

from journal.entry import Appended, Entry, NewEntry
from journal.errors import Closed, Damaged, JournalError, Unavailable, Unreadable
from journal.group_commit import GroupCommit
from journal.port import Waiter
from journal.sqlite import CLOSE_TIMEOUT, SqliteReader
from journal.sqlite_file import map_errors
from journal.sqlite_writer import Writer
from storage.files import sync
from storage.lock import FileLock
from storage.sizes import size_of_database

SEGMENT = 64 * 1024 * 1024
"""Bytes after which a new segment is begun."""

SMALL = 1024 * 1024
"""The same when all entries are forwarded: a new segment gives the space of the others back."""

QUIET = 10.0
"""Seconds after the last entry until that is done for a smaller one as well: what is forgotten must
not stay in a spool."""

FREE = 64 * 1024 * 1024
"""Bytes of the disk that are left to others."""

REFUSED = "refused.db"
"""The file of entries that the journal will never take."""

log = structlog.get_logger()


class Place(NamedTuple):
    """The place of an entry in the spool. Later entries have greater ones."""

    segment: int
    revision: int


NOWHERE = Place(0, 0)


class Segment:
    """A journal's file of which the first entries are forwarded.

    Attributes:
        number: of the segment.
        head: revision of the last entry.
        position: revision up to which all entries are forwarded.
        is_sealed: it takes no more entries.
    """

    def __init__(self, folder: Path, number: int) -> None:
        """Open the file, or create it. What a crash left in its WAL is recovered.

        Raises:
            Unavailable, Unreadable: as `journal.errors` has it.
        """
        self.number = number
        self._path = folder / f"{number}.db"
        self._position_file = folder / f"{number}.position"
        self._file = Writer(self._path)
        try:
            self._reader = SqliteReader(self._path)
            self.head = self._reader.head()
        except BaseException:
            self._file.close()
            raise
        self.position = self._saved_position()
        self._commits = GroupCommit(
            self._file.commit, afterwards=self._file.checkpoint, check=self._file.check
        )
        self.trouble = self._commits.trouble
        self.is_sealed = False
        self._used_at = monotonic()
        self._noting = threading.Lock()

    def append(self, entry: NewEntry, *, timeout: float, event: Callable[[], Waiter]) -> Appended:
        appended = self._commits.append(entry, timeout=timeout, event=event)
        with self._noting:
            self.head = max(self.head, appended.revision)
            self._used_at = monotonic()
        return appended

    def is_quiet(self) -> bool:
        """Return True if there are entries, and the last one came some time ago."""
        return self.head > 0 and monotonic() - self._used_at > QUIET

    def pending(self, limit: int) -> list[Entry]:
        """Return the first entries that are not forwarded. Entries that are damaged are skipped."""
        while True:
            try:
                return self._reader.read(self.position, limit=limit)
            except Damaged as error:
                if self.position >= self.head:
                    raise
                self._keep_for_repair(str(error))
                self.advance(self.position + 1)

    def oldest(self) -> Entry | None:
        """Return the first entry that is not forwarded."""
        return next(iter(self._reader.read(self.position, limit=1)), None)

    def advance(self, position: int) -> None:
        """Note that all entries up to a revision are forwarded; on a full disk in memory only."""
        self.position = position
        new = self._position_file.with_suffix(".new")
        with suppress(OSError):
            new.write_text(f"{self._reader.id} {position}")
            os.replace(new, self._position_file)

    def size(self) -> int:
        return sum(size_of_database(self._path))

    def seal(self) -> None:
        """Finish the appends under way and refuse others; all entries are then in one file."""
        if self.is_sealed:
            return
        self.is_sealed = True
        if self._commits.close(timeout=CLOSE_TIMEOUT):
            self._file.close()
            with suppress(JournalError):  # the disk fails, or the file is gone
                self.head = max(self.head, self._reader.head())
        self._reader.release()  # there may be many segments

    def close(self) -> None:
        self.seal()
        self._reader.close()

    def remove(self) -> None:
        """Delete the sealed file."""
        self._reader.close()
        for suffix in ("", "-wal", "-shm", ".lock"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        self._position_file.unlink(missing_ok=True)

    def _saved_position(self) -> int:
        """Return the position; 0 if it is not known: entries may be forwarded twice."""
        try:
            file_id, position = self._position_file.read_text().split()
            return int(position) if file_id == self._reader.id else 0
        except (OSError, ValueError):
            return 0

    def _keep_for_repair(self, reason: str) -> None:
        """Give the file a second name, so that it stays when the segment is deleted."""
        kept = self._path.with_suffix(".damaged")
        if not kept.exists():
            os.link(self._path, kept)
        log.error("spool_damaged", reason=reason, kept=str(kept), throttle=str(kept))


class SpoolFiles:
    """The folder, which belongs to one process. Any thread may append; one does all the rest.

    Attributes:
        journal_id: of the journal that the entries are for; "" if there was none yet.
    """

    def __init__(self, folder: Path) -> None:
        self.journal_id = ""
        self._folder = folder
        self._setting_aside = threading.Lock()
        self._lock: FileLock | None = None
        self._segments: list[Segment] = []

    def open(self) -> bool:
        """Take the folder, unless it is taken and still there. Create it if there is none.

        Returns True if it was taken now.

        Raises:
            InUse: it belongs to another process.
            Unavailable: that is not possible now; appends are refused until it is.
            Unreadable: there are entries for another journal.
        """
        if self._segments:
            if (self._folder / "lock").exists():
                return False
            log.error("spool_deleted", folder=str(self._folder), entries=self.entries())
            self.close()
        bound_to = self.journal_id
        try:
            with map_errors(self._folder):
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._lock = FileLock(self._folder / "lock")
                sync(self._folder.parent)
                self.journal_id = self._saved_id()
                stems = [path.stem for path in self._folder.glob("*.db")]
            self._segments = self._opened(sorted(int(stem) for stem in stems if stem.isdecimal()))
            self.bind(bound_to or self.journal_id)
        except BaseException:
            self.close()
            self.journal_id = bound_to
            raise
        return True

    def _opened(self, numbers: Sequence[int]) -> list[Segment]:
        """Return the segments that can be read; the last one takes entries."""
        segments: list[Segment] = []
        try:
            for number in numbers:
                if segments:
                    segments[-1].seal()  # there may be many
                try:
                    segments.append(Segment(self._folder, number))
                except Unreadable as error:
                    log.error("spool_damaged", reason=str(error))  # noqa: TRY400
            if not segments or segments[-1].is_sealed:
                segments.append(Segment(self._folder, max(numbers, default=0) + 1))
        except BaseException:
            for segment in segments:
                segment.close()
            raise
        return segments

    def bind(self, journal_id: str) -> None:
        """Note which journal the entries are for.

        Raises:
            Unreadable: there are entries for another one.
        """
        if journal_id == self.journal_id or not self._segments:
            self.journal_id = journal_id
            return
        if self.journal_id and (entries := self.entries()):
            raise Unreadable(
                f"the spool {self._folder} has {entries} callbacks for the journal "
                f"{self.journal_id}, and NATS has the journal {journal_id}: connect to the other "
                "one first, or move the spool away"
            )
        with map_errors(self._folder):
            new = self._folder / "journal.new"
            with new.open("w") as file:
                file.write(journal_id)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, self._folder / "journal")
            sync(self._folder)
        self.journal_id = journal_id

    def append(
        self, entry: NewEntry, *, timeout: float, event: Callable[[], Waiter]
    ) -> tuple[Place, bool]:
        """Make an entry durable; return its place, and True if it was there already."""
        while segments := self._segments:
            segment = segments[-1]
            try:
                appended = segment.append(entry, timeout=timeout, event=event)
            except Closed:
                if not segment.is_sealed:
                    raise
            else:
                return Place(segment.number, appended.revision), appended.duplicate
        raise Unavailable("the spool is not open")

    def pending(self, limit: int) -> list[Entry]:
        """Return the oldest entries that are not forwarded, all of one segment."""
        entries: list[Entry] = []
        while self._segments and not (entries := self._segments[0].pending(limit)):
            if len(self._segments) == 1:
                break
            self._segments.pop(0).remove()
        return entries

    def advance(self, revision: int) -> None:
        """Note that the oldest entries are forwarded up to one of those in `pending`."""
        self._segments[0].advance(revision)

    def tidy(self) -> None:
        """Begin a new segment if the last one is large, or has only what is forwarded."""
        if not self._segments:
            return
        last = self._segments[-1]
        is_done = not self.entries()
        if last.size() > (SMALL if is_done else SEGMENT) or (is_done and last.is_quiet()):
            self._segments.append(Segment(self._folder, last.number + 1))
            last.seal()
            self.pending(1)  # which removes what is forwarded

    def set_aside(self, entry: NewEntry) -> None:
        """Keep an entry that the journal will never take in a file for the operator."""
        with self._setting_aside, closing(Writer(self._folder / REFUSED)) as file:
            file.commit([entry])

    def forwarded(self) -> Place:
        """Return the place up to which all entries are forwarded."""
        return next((Place(each.number, each.position) for each in self._segments), NOWHERE)

    def head(self) -> Place:
        """Return the place of the last entry."""
        return next((Place(each.number, each.head) for each in reversed(self._segments)), NOWHERE)

    def entries(self) -> int:
        """Return the number of entries that are not forwarded."""
        return sum(max(0, each.head - each.position) for each in tuple(self._segments))

    def oldest(self) -> Entry | None:
        """Return the first entry that is not forwarded."""
        for each in tuple(self._segments):
            if each.head > each.position:
                return each.oldest()
        return None

    def shortage(self, max_bytes: int) -> str:
        """Return the reason for which there is no room for more, or ""."""
        if sum(each.size() for each in self._segments) >= max_bytes:
            return f"the spool is full: it has {max_bytes} bytes"
        with map_errors(self._folder):
            is_full = disk_usage(self._folder).free < FREE
        return "the disk of the spool is full" if is_full else ""

    def trouble(self) -> str:
        """Return the reason for which an append would probably fail, or ""."""
        return next((each.trouble() for each in reversed(self._segments)), "the spool is not open")

    def close(self) -> None:
        segments, self._segments = self._segments, []
        for segment in segments:
            segment.close()
        if self._lock:
            self._lock.release()
            self._lock = None

    def _saved_id(self) -> str:
        try:
            return (self._folder / "journal").read_text()
        except FileNotFoundError:
            return ""

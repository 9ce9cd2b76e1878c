"""Follows the journal and keeps the view up to date: the only process that writes it.

Everything in the view can be computed from the journal again, so a batch that fails is tried again.
An entry that fails because of its content is skipped with an error, so that others need not wait.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event

import structlog

from journal.entry import Entry
from journal.errors import (
    Damaged,
    JournalError,
    NotKept,
    OtherJournal,
    Unavailable,
    Unreadable,
)
from journal.port import JournalReader
from metrics.tracing import span
from service.gauges import read_gauges
from service.projection import Projection
from service.view import store
from service.view.errors import ContentRefused, ViewDamaged, ViewError
from service.view.locks import discard
from service.view.progress import Progress
from service.view.writer import ViewWriter

BATCH = 8_000
BATCH_BYTES = 16 * 1024 * 1024
"""Entries, and bytes of their bodies, per transaction at most. Large batches write each page of an
index once for many entries. A follower that keeps up takes what there is."""

REST = 0.005
"""Seconds that a follower rests after a batch at most, once it keeps up: as long as the batch took.
Entries that come meanwhile share the next transaction."""

IDLE = 0.5
"""Seconds after which an idle follower gives a sign of life and checks whether it is to stop."""

RETRY = 1.0
"""Seconds before a failed batch is tried again."""

STOPPED_RETRY = 10.0
"""Seconds before a journal that cannot be followed is looked at again."""

LOOKS = 3
"""Looks, `RETRY` seconds apart, that must find a journal behind its view. A server that no longer
leads a cluster may show an older state for a moment."""

MOST_SKIPPED = 10
"""Entries that are skipped in a row at most. If more fail, the fault is not in the entries."""

KEEP_VIEWS = 24 * 60 * 60.0
"""Seconds that a view of another version is kept after its last use: a rollback finds it there."""

DISCARD_EVERY = 600.0
"""Seconds between two looks for views that are no longer kept."""

CLEAR_EVERY = 1.0
"""Seconds between two attempts to overwrite what was forgotten."""

REPORT = 5.0
"""Seconds between two log lines on the progress of a long catch-up."""

log = structlog.get_logger()


class _NewJournal(Exception):
    """The view was computed from a journal that another one has replaced."""


class _Diverged(Exception):
    """The journal lacks an entry that the view was computed from, or the next one."""

    def __init__(self, difference: str) -> None:
        super().__init__(
            f"JOURNAL_DIVERGED: {difference}; bring back the journal that fits, or delete the view "
            "to begin with this one: see JOURNAL_DIVERGED in docs/operations.md"
        )


class _Behind(_Diverged):
    """The journal ends before its view."""


class _NotApplicable(Exception):
    """A batch cannot be applied because of its content. Raised from the error that says why."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__(f"revisions {entries[0].revision} to {entries[-1].revision}")
        self.entries = entries


class Follower:
    """Keeps the view of one journal up to date.

    Raises, at construction:
        InUse: another follower keeps this version's view in this directory.
    """

    def __init__(
        self,
        journal: JournalReader,
        data_dir: Path,
        *,
        batch: int = BATCH,
        batch_bytes: int = BATCH_BYTES,
        idle: float = IDLE,
        keep_views: float = KEEP_VIEWS,
        may_start_over: bool = True,
    ) -> None:
        """Open the view.

        Args:
            journal: to follow.
            data_dir: directory of the view.
            batch: entries of a transaction at most.
            batch_bytes: bytes of their bodies at most.
            idle: seconds between two looks at `stop` while there is nothing to do.
            keep_views: seconds that the views of other versions are kept.
            may_start_over: a journal with another id replaces this one, as a restored file does.
        """
        self._journal = journal
        self._data_dir = data_dir
        self._batch = batch
        self._batch_bytes = batch_bytes
        self._idle = idle
        self._keep_views = keep_views
        self._discard_at = 0.0
        self._writer = ViewWriter(data_dir)
        self._reported = time.monotonic()
        self._one_by_one_until = 0  # the last revision of a batch that could not be applied
        self._skipped = 0  # in a row
        self._may_start_over = may_start_over
        self._looks = 0  # in a row that found the journal behind the view
        self._deleted: tuple[int, Event] | None = None
        self._clear_at = 0.0

    def note_deleted(self, until: int) -> Event:
        """Take deleted entries off the view's list, soon, in the follower's own thread.

        Returns an event that is set when that is done, and the view's files are clear of them, too.

        Args:
            until: the last FORGET entry whose entries are deleted.
        """
        done = Event()
        self._deleted = until, done
        return done

    def run(self, stop: Event, alive: Callable[[], None] = lambda: None) -> None:
        """Follow until `stop` is set; return after the batch under way.

        Args:
            stop: ends the work.
            alive: called after each batch, and while there is none.
        """
        try:
            while not stop.is_set():
                alive()
                try:
                    self._attempt(stop, alive)
                except (ViewError, Unavailable) as problem:
                    error = type(problem).__name__
                    log.warning(
                        "follower_retrying", error=error, detail=str(problem), throttle=error
                    )
                    stop.wait(RETRY)
        finally:
            self._writer.close()

    def _attempt(self, stop: Event, alive: Callable[[], None]) -> None:
        """Follow until an error; handle it, so that another attempt can begin."""
        try:
            self._follow(stop, alive)
        except ViewDamaged:
            log.exception("view_damaged", throttle="")
            self._writer.renew()
        except _NewJournal as problem:
            log.warning("view_discarded", reason=str(problem), throttle="")
            self._writer.renew()
        except NotKept as problem:
            self._skip_removed(problem, stop, alive)
        except _NotApplicable as problem:
            self._isolate(problem)
        except _Behind as problem:
            self._looks += 1
            if self._looks < LOOKS:
                stop.wait(RETRY)
            else:
                self._report_and_wait("journal_diverged", str(problem), stop, alive)
        except _Diverged as problem:
            self._report_and_wait("journal_diverged", str(problem), stop, alive)
        except OtherJournal as problem:
            self._report_and_wait("journal_diverged", str(_Diverged(str(problem))), stop, alive)
        except Unreadable as problem:
            self._report_and_wait("journal_not_readable", str(problem), stop, alive)

    def _skip_removed(self, removed: NotKept, stop: Event, alive: Callable[[], None]) -> None:
        """Begin a view that was never complete where the journal begins; stop any other one."""
        progress = self._projection().progress
        if progress.complete:
            after, oldest = progress.applied_revision, removed.oldest
            gap = _Diverged(f"revisions {after + 1} to {oldest - 1} are gone, and not in this view")
            self._report_and_wait("journal_diverged", str(gap), stop, alive)
            return
        log.warning("view_discarded", reason=str(removed), throttle="", begins_at=removed.oldest)
        self._writer.renew()
        self._projection().begin_at(removed.oldest)

    def _report_and_wait(
        self, event: str, problem: str, stop: Event, alive: Callable[[], None]
    ) -> None:
        """Report that the journal cannot be followed, and wait until the next attempt."""
        log.error(event, detail=problem, retry_in_s=STOPPED_RETRY)
        self._projection().stop_at(problem)
        until = time.monotonic() + STOPPED_RETRY
        while not stop.is_set() and time.monotonic() < until:
            self._writer.sign_of_life()
            alive()
            stop.wait(self._idle)

    def _projection(self) -> Projection:
        return Projection(self._writer, self._journal.id)

    def _follow(self, stop: Event, alive: Callable[[], None]) -> None:
        projection = self._projection()
        log.info("follower_started", revision=projection.progress.applied_revision, throttle="")
        read_gauges(projection, self._journal, self._writer.path)
        taken_over = False
        while not stop.is_set():
            began = time.monotonic()
            self._step(projection)
            progress = projection.progress
            if progress.complete and not taken_over:
                log.info("follower_caught_up", revision=progress.applied_revision)
                taken_over = True
            if taken_over and time.monotonic() >= self._discard_at:
                self._discard_old_views()
            alive()
            if progress.behind_since is None:
                self._writer.sign_of_life()
                stop.wait(min(time.monotonic() - began, REST))
            self._journal.wait(progress.applied_revision, timeout=self._idle)

    def _step(self, projection: Projection) -> None:
        """Apply the next batch; if there is none, record that the view is complete."""
        self._writer.check_files()
        self._clear_removed()
        self._drop_deleted(projection)
        progress = projection.progress
        entries, following = self._read_batch(progress)
        self._looks = 0
        is_current = progress.complete and progress.behind_since is None and not progress.problem
        if entries or not is_current:
            self._apply(projection, entries, following)
            self._report(projection.progress)

    def _read_batch(self, progress: Progress) -> tuple[list[Entry], Entry | None]:
        """Read the entries that come next, and the one after them; None if there is none."""
        after = progress.applied_revision
        most = 1 if after < self._one_by_one_until else self._batch
        entries = self._read_next(progress, limit=most + 1)
        room = self._batch_bytes - _size(entries)
        while entries and (len(entries) < 2 or (room > 0 and len(entries) <= most)):
            try:
                more = self._journal.read(entries[-1].revision, limit=most + 1 - len(entries))
            except Damaged:
                return entries, entries[-1]  # the next one cannot be read, but it is there
            if not more:
                return entries, None
            entries += more
            room -= _size(more)
        return entries[:-1], entries[-1] if entries else None

    def _read_next(self, progress: Progress, limit: int) -> list[Entry]:
        """Read the next page, with the applied entry before it, which must be there.

        Both come from one answer: of several servers, one may have another journal.

        Raises:
            _NewJournal, _Diverged: the view was not computed from this journal.
        """
        if progress.journal_id != self._journal.id:
            if self._may_start_over:
                raise _NewJournal("the view is of another journal")
            raise _Diverged("the journal is another one")
        applied = progress.applied_revision
        if not progress.applied_id:  # nothing applied yet, or the view begins at a later revision
            return self._journal.read(applied, limit=limit)
        try:
            page = self._journal.read(applied - 1, limit=limit + 1)
        except NotKept:  # the view may have all that was removed
            return self._journal.read(applied, limit=limit)
        if not page and (head := self._journal.head()) < applied:
            raise _Behind(f"the journal ends at revision {head}, this view at {applied}")
        if page and page[0].revision == applied:
            if page[0].id != progress.applied_id:
                raise _Diverged(f"revision {applied} is another callback than in this view")
            del page[0]
            return page or self._journal.read(applied, limit=limit)
        return page

    def _apply(
        self, projection: Projection, entries: Sequence[Entry], following: Entry | None
    ) -> None:
        head = self._journal.head() if following else 0
        behind_since = following.received_at if following else None
        try:
            with span("fold", entries=len(entries)):
                projection.apply(entries, head=head, behind_since=behind_since)
        except Exception as error:
            if entries and _is_of_the_entries(error):
                raise _NotApplicable(entries) from error
            raise
        if entries:
            self._skipped = 0

    def _isolate(self, problem: _NotApplicable) -> None:
        """Apply a failed batch again one entry at a time; skip an entry that failed alone."""
        log.error("entries_cannot_be_applied", detail=str(problem), exc_info=problem.__cause__)
        if len(problem.entries) > 1:
            self._one_by_one_until = problem.entries[-1].revision
            return
        self._skipped += 1
        if self._skipped > MOST_SKIPPED:
            raise problem
        (entry,) = problem.entries
        log.error("entry_skipped", revision=entry.revision)
        self._projection().skip(entry)

    def _clear_removed(self) -> None:
        """Overwrite the forgotten rows in the view's files, a part at a time."""
        if time.monotonic() >= self._clear_at:
            self._clear_at = time.monotonic() + CLEAR_EVERY
            self._writer.clear_removed()

    def _drop_deleted(self, projection: Projection) -> None:
        """Take some deleted entries off the list, once the view's files are clear of them."""
        if self._deleted is None:
            return
        until, done = self._deleted
        is_applied = until <= projection.progress.applied_revision  # or the view is being renewed
        if is_applied and self._writer.is_clear(until) and projection.note_deleted(until):
            self._deleted = None
            done.set()

    def _report(self, progress: Progress) -> None:
        lag = progress.head_revision - progress.applied_revision
        if lag > self._batch and time.monotonic() - self._reported > REPORT:
            self._reported = time.monotonic()
            log.info(
                "follower_catching_up",
                revision=progress.applied_revision,
                head=progress.head_revision,
                percent=round(100 * progress.applied_revision / progress.head_revision, 1),
            )

    def _discard_old_views(self) -> None:
        """Delete the views of other versions that have not been used for long."""
        self._discard_at = time.monotonic() + DISCARD_EVERY
        for path in store.others(self._data_dir):
            if time.time() - store.last_used(path) >= self._keep_views:
                log.info("view_of_other_version", view=path.name, done=discard(path))


def _size(entries: Sequence[Entry]) -> int:
    return sum(len(entry.body) for entry in entries)


def _is_of_the_entries(error: Exception) -> bool:
    """Return True if an error comes from the content of the entries, not from the storage."""
    if isinstance(error, ViewError):
        return isinstance(error, ContentRefused)
    return not isinstance(error, JournalError | OSError | MemoryError)

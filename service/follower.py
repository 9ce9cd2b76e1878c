"""Follows the journal and keeps the view: the only process that writes it.

Everything it does can be done again from the journal, so a batch that fails is tried again. An
entry that fails for what is in it is skipped with an error: it must not hold up all others.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event

import structlog
from msgspec.structs import replace

from journal.entry import Entry, Kind
from journal.errors import JournalError, NotKept, Unavailable
from journal.port import JournalReader
from metrics.definitions import (
    APPLIED_REVISION,
    BUILD_PROGRESS,
    DUPLICATES,
    LAG_ENTRIES,
    LAG_SECONDS,
)
from service.projection import Projection
from service.view import store
from service.view.errors import ContentRefused, ViewDamaged, ViewError
from service.view.progress import Progress
from service.view.writer import ViewWriter, discard

BATCH = 8_000
BATCH_BYTES = 16 * 1024 * 1024
"""Entries, and bytes of their bodies, per transaction at most. A follower that is far behind takes
as many: a page of an index that many sessions share is then written once for all of them. One that
keeps up takes what is there, at once."""

REST = 0.005
"""Seconds for which a follower that keeps up rests after a batch, at most: as long as that took.
What comes meanwhile shares the next transaction."""

IDLE = 0.5
"""Seconds after which an idle follower looks whether it is to stop."""

RETRY = 1.0
"""Seconds to wait before trying again what failed."""

MOST_SKIPPED = 10
"""Entries that are skipped in a row. If more of them fail, the fault is not in the entries."""

REPORT = 5.0
"""Seconds between two lines on the progress of a long catch-up."""

log = structlog.get_logger()


class _AnotherHistory(Exception):
    """The view was computed from other entries than the journal has."""


class _CannotApply(Exception):
    """A batch cannot be written, for what is in it. Raised from the error that says why."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__(f"revisions {entries[0].revision} to {entries[-1].revision}")
        self.entries = entries


class Follower:
    """Keeps the view of one journal up to date.

    Raises, at construction:
        InUse: another follower keeps this version's view in this directory.
    """

    def __init__(self, journal: JournalReader, data_dir: Path) -> None:
        self._journal = journal
        self._data_dir = data_dir
        self._writer = ViewWriter(data_dir)
        self._reported = time.monotonic()
        self._one_by_one_until = 0  # the last revision of a batch that could not be applied
        self._skipped = 0  # in a row

    def run(self, stop: Event, alive: Callable[[], None] = lambda: None) -> None:
        """Follow until `stop` is set; returns after the batch under way.

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
                    log.warning(
                        "follower_retrying", error=type(problem).__name__, detail=str(problem)
                    )
                    stop.wait(RETRY)
        finally:
            self._writer.close()

    def _attempt(self, stop: Event, alive: Callable[[], None]) -> None:
        """Follow until there is a reason to begin anew, and prepare for that."""
        try:
            self._follow(stop, alive)
        except ViewDamaged:
            log.exception("view_damaged")
            self._writer.renew()
        except _AnotherHistory as found:
            log.warning("view_discarded", reason=str(found))
            self._writer.renew()
        except NotKept as removed:
            log.warning("view_discarded", reason=str(removed), begins_at=removed.oldest)
            self._writer.renew()
            self._begin_at(removed.oldest)
        except _CannotApply as failed:
            self._isolate(failed)

    def _follow(self, stop: Event, alive: Callable[[], None]) -> None:
        projection = Projection(self._writer, self._journal.id)
        log.info("follower_started", revision=projection.progress.applied_revision)
        _measure(projection, self._journal)
        taken_over = False
        while not stop.is_set():
            began = time.monotonic()
            keeps_up = self._step(projection)
            if projection.progress.complete and not taken_over:
                self._take_over(projection.progress)
                taken_over = True
            self._writer.sign_of_life()
            alive()
            if keeps_up:
                stop.wait(min(time.monotonic() - began, REST))
            self._journal.wait(projection.progress.applied_revision, timeout=IDLE)

    def _next(self, progress: Progress) -> tuple[list[Entry], Entry | None]:
        """The entries that come next, and the one after them; None if there is none.

        Raises:
            _AnotherHistory: what the view contains is not what the journal has.
        """
        if progress.journal_id != self._journal.id:
            raise _AnotherHistory("the view is of another journal")
        if not self._agrees(progress):
            raise _AnotherHistory("the journal was put back to an earlier state")
        return self._batch(progress.applied_revision)

    def _agrees(self, progress: Progress) -> bool:
        """Return False if the journal has not the entry that was applied last.

        Asked in each step: a journal may be put back under a follower that runs.
        """
        if not progress.applied_id:  # nothing applied yet, or the view begins at a later revision
            return True
        try:
            last = self._journal.read(progress.applied_revision - 1, limit=1)
        except NotKept:  # it was removed since, and the view needs nothing that was removed
            return True
        return [(entry.revision, entry.id) for entry in last] == [
            (progress.applied_revision, progress.applied_id)
        ]

    def _batch(self, after: int) -> tuple[list[Entry], Entry | None]:
        """Join reads into a batch; a read that finds nothing says that it is the last one."""
        most = 1 if after < self._one_by_one_until else BATCH
        entries: list[Entry] = []
        room = BATCH_BYTES
        while len(entries) < 2 or (room > 0 and len(entries) <= most):
            more = self._journal.read(after, limit=most + 1 - len(entries))
            if not more:
                return entries, None
            entries += more
            after = more[-1].revision
            room -= sum(len(entry.body) for entry in more)
        return entries[:-1], entries[-1]

    def _step(self, projection: Projection) -> bool:
        """Apply the next batch, or note that there is none; return True if none is left."""
        entries, following = _callbacks(*self._next(projection.progress))
        if entries and entries[0].kind != Kind.CALLBACK:
            log.error("entry_of_unknown_kind", revision=entries[0].revision, kind=entries[0].kind)
            self._pass(projection, entries[0])
            return False
        progress = projection.progress
        if not entries and progress.complete and progress.behind_since is None:
            return True
        self._apply(projection, entries, following)
        self._report(projection.progress)
        return projection.progress.behind_since is None

    def _apply(
        self, projection: Projection, entries: Sequence[Entry], following: Entry | None
    ) -> None:
        head = self._journal.head() if following else _last(entries)
        behind_since = following.received_at if following else None
        try:
            projection.apply(entries, head=head, behind_since=behind_since)
        except Exception as error:
            if entries and _is_of_the_entries(error):
                raise _CannotApply(entries) from error
            raise
        if entries:
            self._skipped = 0

    def _isolate(self, failed: _CannotApply) -> None:
        """Have a batch that failed applied one by one; skip the entry that failed alone."""
        log.error("entries_cannot_be_applied", detail=str(failed), exc_info=failed.__cause__)
        if len(failed.entries) > 1:
            self._one_by_one_until = failed.entries[-1].revision
            return
        self._skipped += 1
        if self._skipped > MOST_SKIPPED:
            raise failed
        (entry,) = failed.entries
        log.error("entry_skipped", revision=entry.revision)
        self._pass(Projection(self._writer, self._journal.id), entry)

    def _pass(self, projection: Projection, entry: Entry) -> None:
        """Go past an entry that leaves no trace in the view."""
        projection.progress = self._saved(
            replace(
                projection.progress,
                applied_revision=entry.revision,
                applied_id=entry.id,
                head_revision=max(projection.progress.head_revision, entry.revision),
            )
        )

    def _begin_at(self, oldest: int) -> None:
        """Have an empty view begin at a revision, as if all before it had never been."""
        empty = Projection(self._writer, self._journal.id).progress
        before = oldest - 1
        self._saved(
            replace(empty, applied_revision=before, head_revision=before, oldest_revision=oldest)
        )

    def _saved(self, progress: Progress) -> Progress:
        with self._writer.transaction():
            self._writer.save_progress(progress)
        return progress

    def _report(self, progress: Progress) -> None:
        lag = progress.head_revision - progress.applied_revision
        if lag > BATCH and time.monotonic() - self._reported > REPORT:
            self._reported = time.monotonic()
            log.info(
                "follower_catching_up",
                revision=progress.applied_revision,
                head=progress.head_revision,
                percent=round(100 * progress.applied_revision / progress.head_revision, 1),
            )

    def _take_over(self, progress: Progress) -> None:
        """This version's view is whole: those of other versions are of no more use."""
        log.info("follower_caught_up", revision=progress.applied_revision)
        for path in store.others(self._data_dir):
            log.info("view_of_other_version", view=path.name, done=discard(path))


def _measure(projection: Projection, journal: JournalReader) -> None:
    """Have the gauges read when a page of metrics is made, by its thread."""

    def lag() -> int:
        return max(0, journal.head() - projection.progress.applied_revision)

    def lag_seconds() -> float:
        waiting = journal.read(projection.progress.applied_revision, limit=1)
        return max(0.0, time.time() - waiting[0].received_at / 1000) if waiting else 0.0

    def built() -> float:
        progress = projection.progress
        return 1.0 if progress.complete else progress.applied_revision / max(1, journal.head())

    APPLIED_REVISION.read_number(lambda: projection.progress.applied_revision)
    LAG_ENTRIES.read_number(lag)
    LAG_SECONDS.read_number(lag_seconds)
    BUILD_PROGRESS.read_number(built)
    DUPLICATES.read = lambda: {("fold",): projection.progress.repetitions}


def _callbacks(entries: list[Entry], following: Entry | None) -> tuple[list[Entry], Entry | None]:
    """Cut a batch before the first entry that is no callback, unless it begins with that."""
    for place, entry in enumerate(entries):
        if place and entry.kind != Kind.CALLBACK:
            return entries[:place], entry
    return entries, following


def _last(entries: Sequence[Entry]) -> int:
    return entries[-1].revision if entries else 0


def _is_of_the_entries(error: Exception) -> bool:
    """Return True if an error comes from what was to be written, not from where."""
    if isinstance(error, ViewError):
        return isinstance(error, ContentRefused)
    return not isinstance(error, JournalError | OSError | MemoryError)

"""Follows the journal and keeps the view: the only process that writes it.

Everything it does can be done again from the journal, so a batch that fails is simply tried again.
"""

import time
from pathlib import Path
from threading import Event

import structlog

from journal.entry import Entry
from journal.errors import Unavailable
from journal.port import Journal
from service.projection import Projection
from service.view import store
from service.view.writer import Progress, ViewDamaged, ViewError, ViewWriter, discard

BATCH = 1_000
"""Entries per transaction."""

IDLE = 0.5
"""Seconds after which an idle follower looks whether it is to stop."""

RETRY = 1.0
"""Seconds to wait before trying again what failed."""

REPORT = 5.0
"""Seconds between two lines on the progress of a long catch-up."""

log = structlog.get_logger()


class _AnotherHistory(Exception):
    """The view was computed from other entries than the journal has."""


class Follower:
    """Keeps the view of one journal up to date.

    Raises, at construction:
        InUse: another follower keeps this version's view in this directory.
    """

    def __init__(self, journal: Journal, data_dir: Path) -> None:
        self._journal = journal
        self._data_dir = data_dir
        self._writer = ViewWriter(data_dir)
        self._reported = time.monotonic()

    def run(self, stop: Event) -> None:
        """Follow until `stop` is set; returns after the batch under way."""
        try:
            while not stop.is_set():
                try:
                    self._follow(stop)
                except ViewDamaged:
                    log.exception("view_damaged")
                    self._writer.renew()
                except _AnotherHistory as found:
                    log.warning("view_discarded", reason=str(found))
                    self._writer.renew()
                except (ViewError, Unavailable) as problem:
                    log.warning(
                        "follower_retrying", error=type(problem).__name__, detail=str(problem)
                    )
                    stop.wait(RETRY)
        finally:
            self._writer.close()

    def _follow(self, stop: Event) -> None:
        projection = Projection(self._writer, self._journal.id)
        log.info("follower_started", revision=projection.progress.applied_revision)
        taken_over = False
        while not stop.is_set():
            self._step(projection)
            if projection.progress.complete and not taken_over:
                self._take_over(projection.progress)
                taken_over = True
            self._writer.sign_of_life()
            self._journal.wait(projection.progress.applied_revision, timeout=IDLE)

    def _next(self, progress: Progress) -> list[Entry]:
        """The entries that come next.

        Raises:
            _AnotherHistory: what the view contains is not what the journal has.
        """
        if progress.journal_id != self._journal.id:
            raise _AnotherHistory("the view is of another journal")
        if not progress.applied_revision:
            return self._journal.read(0, limit=BATCH)
        entries = self._journal.read(progress.applied_revision - 1, limit=BATCH + 1)
        if not entries or entries[0].id != progress.applied_id:
            raise _AnotherHistory("the journal was put back to an earlier state")
        return entries[1:]

    def _step(self, projection: Projection) -> None:
        """Apply the next batch, or note that there is none."""
        applied = projection.progress.applied_revision
        entries = self._next(projection.progress)
        if not entries and projection.progress.complete:
            return
        if entries:
            applied = entries[-1].revision
        following = self._journal.read(applied, limit=1)
        behind_since = following[0].received_at if following else None
        projection.apply(entries, head=self._journal.head(), behind_since=behind_since)
        self._report(projection.progress)

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

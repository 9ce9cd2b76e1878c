"""Follows the journal and keeps the view: the only process that writes it.

Everything it does can be done again from the journal, so a batch that fails is simply tried again.
"""

import time
from pathlib import Path
from threading import Event

import structlog

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
                    self._writer.renew()
                except (ViewError, Unavailable) as problem:
                    log.warning(
                        "follower.retrying", error=type(problem).__name__, detail=str(problem)
                    )
                    stop.wait(RETRY)
        finally:
            self._writer.close()

    def _follow(self, stop: Event) -> None:
        projection = self._begin()
        while not stop.is_set():
            was_complete = projection.progress.complete
            self._step(projection)
            if projection.progress.complete and not was_complete:
                self._take_over(projection.progress)
            self._journal.wait(projection.progress.applied_revision, timeout=IDLE)

    def _begin(self) -> Projection:
        """Go on where the view stands, or from the start if it is of another journal."""
        progress = self._writer.progress()
        if progress and not self._belongs(progress):
            log.warning("follower.view_reset", journal=self._journal.id, view=progress.journal_id)
            self._writer.reset()
        projection = Projection(self._writer, self._journal.id)
        log.info("follower.started", revision=projection.progress.applied_revision)
        return projection

    def _belongs(self, progress: Progress) -> bool:
        same_journal = progress.journal_id == self._journal.id
        return same_journal and progress.applied_revision <= self._journal.head()

    def _step(self, projection: Projection) -> None:
        """Apply the next batch, or note that there is none."""
        applied = projection.progress.applied_revision
        entries = self._journal.read(applied, limit=BATCH)
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
                "follower.catching_up",
                revision=progress.applied_revision,
                head=progress.head_revision,
                percent=round(100 * progress.applied_revision / progress.head_revision, 1),
            )

    def _take_over(self, progress: Progress) -> None:
        """This version's view is whole: those of other versions are of no more use."""
        log.info("follower.caught_up", revision=progress.applied_revision)
        for path in store.others(self._data_dir):
            log.info("follower.view_discarded", view=path.name, done=discard(path))

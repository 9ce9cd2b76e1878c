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
            began = time.monotonic()
            keeps_up = self._step(projection)
            if projection.progress.complete and not taken_over:
                self._take_over(projection.progress)
                taken_over = True
            self._writer.sign_of_life()
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
        applied = progress.applied_revision
        last = self._journal.read(applied - 1, limit=1) if applied else []
        if applied and (not last or last[0].id != progress.applied_id):
            raise _AnotherHistory("the journal was put back to an earlier state")
        return self._batch(applied)

    def _batch(self, after: int) -> tuple[list[Entry], Entry | None]:
        """Join reads into a batch; a read that finds nothing says that it is the last one."""
        entries: list[Entry] = []
        room = BATCH_BYTES
        while len(entries) < 2 or (room > 0 and len(entries) <= BATCH):
            more = self._journal.read(after, limit=BATCH + 1 - len(entries))
            if not more:
                return entries, None
            entries += more
            after = more[-1].revision
            room -= sum(len(entry.body) for entry in more)
        return entries[:-1], entries[-1]

    def _step(self, projection: Projection) -> bool:
        """Apply the next batch, or note that there is none; say whether that was the last one."""
        entries, following = self._next(projection.progress)
        if not entries and projection.progress.complete:
            return True
        behind_since = following.received_at if following else None
        head = self._journal.head() if following else 0
        projection.apply(entries, head=head, behind_since=behind_since)
        self._report(projection.progress)
        return projection.progress.behind_since is None

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

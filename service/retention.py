"""Retention: forgets once a day what is older than may be kept. A thread of the follower's process.

It appends FORGET entries to the journal, which every replica applies. Ages are counted by the
earliest of three clocks, so that one that is ahead forgets nothing too early.
"""

import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path
from threading import Event, Thread

import structlog

from journal.errors import JournalError
from metrics.definitions import RETENTION_COMPLETED, RETENTION_FORGOTTEN
from metrics.report import RetentionReport, load, save
from service import forget_targets
from service.forget_targets import Append, Start, Target
from service.view import store
from service.view.errors import ViewError, ViewUnavailable
from service.view.reader import Reader

LOOK_EVERY = 10.0
"""Seconds between two checks for a run that is due, also after one that failed."""

TURN = 600.0
"""Seconds of a turn of a run. If this replica dies, another one can claim the next turn."""

APPLIED_WITHIN = 60.0
POLL = 0.05
"""Seconds in which the view must have applied a step, and between two looks."""

DAY = timedelta(days=1)

QUIET = timedelta(days=7)
"""The age of the newest event from which a clock may be wrong."""

log = structlog.get_logger()


class TimeInDoubt(Exception):
    """No recent callback confirms the time."""


class Retention:
    """Forgets sessions that have been silent for long, and malformed callbacks that are as old.

    Attributes:
        report: the last run.
    """

    def __init__(
        self,
        data_dir: Path,
        append: Append,
        claim: Callable[[str], bool],
        *,
        keep: timedelta,
        at: clock_time,
    ) -> None:
        """Prepare.

        Args:
            data_dir: directory of the view.
            append: appends a FORGET entry to the journal.
            claim: returns True to the first replica that claims a turn; a claim holds for longer.
            keep: the age from which something is forgotten.
            at: the time of day of a run, in UTC.
        """
        self._data_dir = data_dir
        self._append = append
        self._claim = claim
        self._keep = keep
        self._at = at
        self._claimed = ""  # the turn that this replica has
        self.report = load(data_dir, RetentionReport) or RetentionReport()
        self.report.keep = int(keep.total_seconds())

    def start(self, stop: Event) -> None:
        """Work from now on, in a thread, until `stop` is set."""
        save(self.report, self._data_dir)
        RETENTION_FORGOTTEN.values |= {("session",): 0, ("malformed",): 0}
        RETENTION_COMPLETED.read_number(lambda: self.report.completed_at / 1000)
        Thread(target=self._run, args=(stop,), name="retention", daemon=True).start()

    def _run(self, stop: Event) -> None:
        while not stop.wait(LOOK_EVERY):
            try:
                self.run_if_due(datetime.now(UTC), stop)
            except Exception:  # the next attempt may succeed
                log.exception("retention_failed", throttle="")

    def run_if_due(self, now: datetime, stop: Event) -> None:
        """Forget what is too old, unless that was done since the last time of day that is due."""
        due = datetime.combine(now.date(), self._at, UTC)
        if due > now:
            due -= DAY
        if _milliseconds(due) <= self.report.completed_at <= _milliseconds(now):
            return  # a later time is of a clock that was ahead
        try:
            cut = self._present(now) - self._keep  # before the claim: another may do better
            if self._has_turn(due, now):
                self._forget_before(cut, now, due, stop)
        except (JournalError, ViewError, OSError, TimeInDoubt) as problem:
            self.report.problem = str(problem)
            log.warning("retention_failed", reason=str(problem), throttle="")
        save(self.report, self._data_dir)

    def _present(self, now: datetime) -> datetime:
        """Return the earliest time by the clocks of this service, Desk and a gateway.

        Raises:
            TimeInDoubt: the others are long behind that of this service.
            ViewUnavailable: the view is behind the journal.
        """
        with closing(Reader(store.locate(self._data_dir))) as reader:
            forget_targets.check_current(reader.progress(), _milliseconds(datetime.now(UTC)))
            newest = forget_targets.newest_event(reader)
        seen = datetime.fromtimestamp(newest / 1000, UTC)
        if newest and now - seen > QUIET:
            raise TimeInDoubt(
                f"the newest event is of {seen:%Y-%m-%d %H:%M:%SZ}: no callbacks come, or the "
                "clock is ahead; desk forget --silent-for forgets by age all the same"
            )
        return min(now, seen)

    def _has_turn(self, due: datetime, now: datetime) -> bool:
        """Return True if this replica has the present turn, or has claimed it just now."""
        turn = f"retention-{due:%Y-%m-%d}-{now.timestamp() // TURN:.0f}"
        if turn != self._claimed and self._claim(turn):
            self._claimed = turn
        return turn == self._claimed

    def _forget_before(self, cut: datetime, now: datetime, due: datetime, stop: Event) -> None:
        began = time.monotonic()
        log.info("retention_begins", before=f"{cut:%Y-%m-%d %H:%M:%SZ}")
        report = self.report
        report.sessions = report.malformed = 0
        before = _milliseconds(cut)
        for target in (Target(silent_before=before), Target(malformed_before=before)):
            start: Start | None = Start()
            while start:
                start = self._step(target, start, stop)
                passed = timedelta(seconds=time.monotonic() - began)
                if stop.is_set() or not self._has_turn(due, now + passed):
                    return
        report.completed_at, report.problem = _milliseconds(now + passed), ""
        log.info("retention_completed", sessions=report.sessions, malformed=report.malformed)

    def _step(self, target: Target, start: Start, stop: Event) -> Start | None:
        with closing(Reader(store.locate(self._data_dir))) as reader:
            now = _milliseconds(datetime.now(UTC))
            step = forget_targets.step(reader, target, start, now)
            revisions = forget_targets.forget(step.found, self._append, now)
            self._count(*step.counts())
            if revisions:
                _wait_applied(reader, revisions[-1], stop)
        return step.following

    def _count(self, sessions: int, malformed: int) -> None:
        self.report.sessions += sessions
        self.report.malformed += malformed
        RETENTION_FORGOTTEN.values[("session",)] += sessions
        RETENTION_FORGOTTEN.values[("malformed",)] += malformed


def _wait_applied(reader: Reader, revision: int, stop: Event) -> None:
    """Wait until the view has applied a revision, so that steps do not pile up."""
    end = time.monotonic() + APPLIED_WITHIN
    while reader.progress().applied_revision < revision and not stop.wait(POLL):
        if time.monotonic() > end:
            raise ViewUnavailable(f"the view had not reached revision {revision} in time")


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)

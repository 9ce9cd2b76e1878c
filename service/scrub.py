"""The scrub: compares the journal with the view, slowly, in one pass after the other.

It finds damage that no request would notice: entries that a disk has changed, different entries on
the servers of one stream, entries that the view lacks. It changes nothing, and stops nothing.
"""

import time
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import structlog

from journal.entry import Entry
from journal.errors import Damaged, JournalError, NotKept
from journal.port import JournalReader
from metrics.definitions import SCRUB_DIFFERENCES, SCRUB_REVISION
from metrics.report import ScrubReport, load, save
from service.positions import last_of, revision_of
from service.recovery import COMPARED, IS_FIRST, JournalCursor, difference, without_record
from service.view import store
from service.view.errors import ViewError, sqlite_errors
from service.view.progress import LOAD, Progress
from service.view.rows import FORGOTTEN

PASS_EVERY = 60 * 60.0
"""Seconds from the end of a pass to the next one."""

MOST_REVISIONS = 10
"""Limit of the revisions in a step, as a multiple of its entries: entries may be missing."""

ROWS = f"""
SELECT position, {COMPARED} FROM feed
WHERE position > ? AND position <= ? AND {IS_FIRST} AND revised != {FORGOTTEN} ORDER BY position
"""  # noqa: S608

log = structlog.get_logger()


class Scrub:
    """Compares one journal with the view in a directory.

    The position is saved, so that a restart does not begin a pass again.

    Attributes:
        report: the state of the comparison.

    Args:
        journal: to compare.
        data_dir: directory of the view.
        rate: entries that are compared in `pause` seconds.
        pause: seconds between two steps.
        pass_every: seconds from the end of a pass to the next one.
    """

    def __init__(
        self,
        journal: JournalReader,
        data_dir: Path,
        *,
        rate: int,
        pause: float = 1.0,
        pass_every: float = PASS_EVERY,
    ) -> None:
        self._journal = journal
        self._data_dir = data_dir
        self._rate = rate
        self._pause = pause
        self._pass_every = pass_every
        self.report = load(data_dir, ScrubReport) or ScrubReport()
        if self.report.journal_id != journal.id:
            self.report = ScrubReport(journal_id=journal.id)

    def start(self, stop: Event) -> None:
        """Compare from now on, in a thread, until `stop` is set."""
        SCRUB_REVISION.read_number(lambda: self.report.revision)
        SCRUB_DIFFERENCES.read_number(lambda: self.report.shown)
        Thread(target=self._run, args=(stop,), name="scrub", daemon=True).start()

    def _run(self, stop: Event) -> None:
        while not stop.wait(self._pause):
            passed = time.time() - self.report.completed_at / 1000
            # A negative time means that the clock was wrong.
            if not self.report.revision and 0 <= passed < self._pass_every:
                continue
            try:
                self.step()
            except (JournalError, ViewError):  # perhaps not for long
                continue
            except Exception:  # the thread must go on
                log.exception("scrub_failed", revision=self.report.revision, throttle="")

    def step(self) -> None:
        """Compare the next entries, and save the position."""
        with sqlite_errors(), closing(store.open_reader(store.locate(self._data_dir))) as db:
            progress = Progress.of_row(db.execute(LOAD).fetchone())
            if progress.journal_id != self._journal.id:
                return
            applied = progress.applied_revision
            after, entries, until = self._read(applied)
            # The view is read second: entries are deleted after the view has forgotten them.
            db.execute("BEGIN")
            cursor = JournalCursor(entries, without_record(db, after, until), self._note)
            for position, record, *columns in db.execute(ROWS, _between(after, until)):
                revision = revision_of(position)
                if problem := difference(record, columns, cursor.at(revision)):
                    self._note(revision, problem)
            cursor.pass_over(until)
        self.report.revision = until
        if until >= applied:
            self._end_pass()
        save(self.report, self._data_dir)

    def _read(self, applied: int) -> tuple[int, list[Entry], int]:
        """Read the next entries.

        Returns the revision before them, the entries, and the last revision that they cover.
        """
        after = self.report.revision
        try:
            entries = self._journal.read(after, limit=self._rate)
        except NotKept as removed:
            skipped = min(removed.oldest - 1, applied)
            return skipped, [], skipped
        except Damaged as error:
            self._note(after + 1, str(error))
            return applied, [], applied  # later entries cannot be read either
        last = entries[-1].revision if entries else applied
        return after, entries, min(last, after + MOST_REVISIONS * self._rate, applied)

    def _note(self, revision: int, problem: str) -> None:
        log.error("scrub_difference", revision=revision, problem=problem, throttle="")
        if not self.report.differences:
            self.report.first_difference = f"revision {revision}: {problem}"
        self.report.differences += 1

    def _end_pass(self) -> None:
        report = self.report
        log.info("scrub_completed", revision=report.revision, differences=report.differences)
        if not report.differences:
            report.first_difference = ""
        report.differences_before, report.differences = report.differences, 0
        report.revision, report.completed_at = 0, time.time_ns() // 1_000_000


def _between(after: int, until: int) -> tuple[int, int]:
    return last_of(after), last_of(until)

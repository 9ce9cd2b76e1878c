"""desk.v1.ReportService: figures by interval, computed when they are asked for."""

import math
import time
from collections.abc import Iterable
from contextlib import closing

from callback.catalogue import EventType
from desk.v1 import report_service_pb2 as pb
from service.history import saved_session
from service.positions import last_of
from service.records import facts_of
from service.report import Report, Reported, ReportSelection
from service.rpc import requests, responses
from service.rpc.calls import Call
from service.rpc.checks import checking
from service.rpc.errors import CallRefused, ErrorReason
from service.rpc.live_board import Centre
from service.rpc.live_feed import LiveFeed
from service.rpc.revisions import await_revision
from service.view.errors import TimeLimitPassed
from service.view.progress import Progress
from service.view.reader import Reader
from service.view.readers import Readers

MAX_SINCE = 200_000
"""Revisions that are searched for changes; if there are more, all counts as changed."""

LOOK_EVERY = 1_000
"""Sessions between two looks at the clock."""


class ReportService:
    """Answers from the sessions of the view."""

    def __init__(self, readers: Readers, feed: LiveFeed, centre: Centre) -> None:
        self._readers = readers
        self._feed = feed
        self._centre = centre

    async def GetReport(self, request: pb.GetReportRequest, call: Call) -> pb.GetReportResponse:
        centre, limits = self._centre, self._feed.limits
        with checking() as check:
            selection = requests.report_selection(check, request, centre.zone, centre.thresholds)
            since = check.not_negative("since_revision", request.since_revision)
            check.not_negative("min_revision", request.min_revision)
        # A replica that is behind the earlier report cannot know what has changed since.
        least = max(request.min_revision, since)
        await await_revision(self._feed, self._readers.inline, least, call)
        end = time.monotonic() + call.time_left(math.inf)
        work = Computation(selection, since, end, limits.count_seconds, limits.report_rows)
        response = await self._readers.heavy.run(call.caller, work.compute, centre.now())
        response.time_zone = centre.zone_name
        return response


class Computation:
    """The computing of one report, in a thread.

    Args:
        selection: the report.
        since: the revision after which intervals count as changed; 0: none does.
        end: time of the monotonic clock at which the call ends.
        seconds: limit of the computing time.
        most_rows: limit of the rows.
    """

    def __init__(
        self, selection: ReportSelection, since: int, end: float, seconds: float, most_rows: int
    ) -> None:
        self._selection = selection
        self._since = since
        self._end = end
        self._seconds = seconds
        self._most_rows = most_rows

    def compute(self, reader: Reader, now: int) -> pb.GetReportResponse:
        self._end = min(self._end, time.monotonic() + self._seconds)
        report = Report(self._selection)
        try:
            with reader.snapshot() as progress:
                self._add_sessions(reader, report)
                all_changed = self._since > 0 and self._note_changes(reader, report, progress)
        except TimeLimitPassed:
            raise _too_large(f"takes more than {self._seconds:g} s") from None
        return pb.GetReportResponse(
            header=responses.header_of(progress),
            thresholds=self._selection.thresholds.message(),
            intervals=report.intervals(
                since_revision=self._since, all_changed=all_changed, now=now
            ),
            total=report.total(now),
        )

    def _left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeLimitPassed
        return left

    def _add_sessions(self, reader: Reader, report: Report) -> None:
        chosen = self._selection
        start, end = chosen.bounds[0], chosen.bounds[-1]
        rows = reader.report_sessions(chosen.sdk_app_ids, start, end, seconds=self._left())
        with closing(rows):  # ends the time limit of the connection
            for number, (app, fold, revision, repeat, begun_at, last_event_at) in enumerate(rows):
                last = max(revision, repeat or 0)
                session = saved_session(fold)
                report.add(
                    Reported(app, session, last, repeat is not None, begun_at, last_event_at)
                )
                if report.rows > self._most_rows:
                    raise _too_large(f"has more than {self._most_rows:,} rows")
                if number % LOOK_EVERY == 0:
                    self._left()

    def _note_changes(self, reader: Reader, report: Report, progress: Progress) -> bool:
        """Note intervals that sessions have left since; return True if all may have changed."""
        since, after = self._since, last_of(self._since)
        if (
            progress.applied_revision - since > MAX_SINCE
            or since < progress.begins_at - 1
            or any(progress.removed)
            or self._any_of_ours(app for app, _ in reader.forgotten_after(after))
            or self._any_of_ours(reader.users_changed(after, seconds=self._left()))
        ):
            return True
        revised = reader.revised_after(after, seconds=self._left())
        with closing(revised):
            for app, record, *span in revised:
                if not self._any_of_ours([app]):
                    continue
                facts = facts_of(record)
                if facts.event == EventType.SESSION_BEGIN:
                    return True  # the session may now be a repeat contact after another one
                times = [facts.event_time, *(each for each in span if each is not None)]
                report.touch(min(times), max(times))
        return False

    def _any_of_ours(self, sdk_app_ids: Iterable[int]) -> bool:
        return any(map(self._selection.selects_app, sdk_app_ids))


def _too_large(problem: str) -> CallRefused:
    return CallRefused(
        ErrorReason.TOO_MANY_SESSIONS,
        f"the report {problem}: ask for a shorter range, longer intervals or fewer groups",
    )

"""Reports: figures by interval, corrected by late callbacks."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from console.board import thresholds_of
from console.page import Document, Page
from console.query import Query, names_of
from desk.client import FORMULAS
from desk.v1.report_service_pb2 import GetReportRequest, IntervalLength, ReportGroup
from desk.v1.session_pb2 import TimeRange
from display.documents import as_json

MAX_ROWS = 2_000
"""Rows on the page; the CSV has all."""

BY_HOUR = IntervalLength.INTERVAL_LENGTH_HOUR


class Reports(Page):
    """Figures by interval, and by app, channel or agent."""

    path = "/reports"
    title = "Reports"
    template = "reports.html"
    rows = "rows"
    columns = (
        "start_time", "end_time", "revision", "changed", "sdk_app_id", "channel_type", "agent_id",
        "service.offered", "service.waiting", "service.answered", "service.answered_within",
        "service.abandoned", "service.short_abandons", "service.sent_back",
        "service.ended_otherwise", "service.service_level", "service.abandonment_rate",
        "service.raw_abandonment_rate", "service.speed_of_answer.sessions",
        "service.speed_of_answer.mean_seconds", "service.speed_of_answer.median_seconds",
        "service.speed_of_answer.p90_seconds",
        "service.speed_of_answer.p99_seconds", "service.speed_of_answer.max_seconds",
        "service.forwarded", "service.transfer_rate", "handling.handled",
        "handling.handle_time_seconds", "handling.average_handle_time_seconds",
        "handling.session_time_seconds", "handling.busy_time_seconds", "handling.concurrency",
        "outcome.begun", "outcome.over", "outcome.contained", "outcome.containment",
        "outcome.ratings", "outcome.satisfied", "outcome.csat", "outcome.mean_rating",
        "outcome.resolvable", "outcome.repeat_contacts", "outcome.first_contact_resolution",
        "outcome.resolution_provisional",
    )  # fmt: skip
    intervals = (*names_of(IntervalLength), "NONE")
    groups = names_of(ReportGroup)
    most = MAX_ROWS

    async def document(self, query: Query) -> Document:
        """Return the report: its intervals with their rows, one after the other."""
        request = GetReportRequest(
            range=_range(query),
            interval=next(iter(query.enums("by", IntervalLength)), BY_HOUR),  # type: ignore[arg-type]
            group_by=query.enums("group", ReportGroup),  # type: ignore[arg-type]
            sdk_app_ids=query.numbers("app"),
            channel_types=query.texts("channel"),
            agent_ids=query.texts("agent"),
            thresholds=thresholds_of(query),
            since_revision=query.number("since_revision"),
        )
        client = self.site.client
        answer = await client.call(client.report_service.GetReport, request)
        return await asyncio.to_thread(lambda: document_of(as_json(answer), query))


def document_of(answer: dict[str, Any], query: Query) -> Document:
    """Return a report with its rows in one list."""
    intervals = answer.pop("intervals")
    rows = []
    for interval in intervals:
        of_rows = interval.pop("rows") or [{}]
        rows += [{**interval, **row} for row in of_rows]
    since = query.number("since_revision")
    return {
        **answer,
        "rows": rows,
        "since_revision": since,
        "changed": sum(interval["changed"] for interval in intervals) if since else 0,
        "formulas": FORMULAS,
    }


def _range(query: Query) -> TimeRange:
    """Return the range asked for: by default today up to now, in the console's zone."""
    now = datetime.now(query.zone)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    start = query.time("since") or _timestamp(midnight)
    end = query.time("until") or _timestamp(max(now, start.ToDatetime(UTC)) + timedelta(seconds=1))
    return TimeRange(start_time=start, end_time=end)


def _timestamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment.astimezone(UTC))
    return made

"""Checked requests: messages of clients become selections, keys and sizes for the view.

The rules are the comments of proto/desk/v1. An error lists all faults of a request.
"""

import re
from collections.abc import Sequence
from datetime import tzinfo
from typing import Any

import msgspec
from google.protobuf.duration_pb2 import Duration

from desk.v1 import figures_pb2
from desk.v1.admin_service_pb2 import ForgetRequest
from desk.v1.event_pb2 import EventFilter, EventType, RejectionReason, Verdict
from desk.v1.event_service_pb2 import ListRejectionsRequest, SubscribeRequest
from desk.v1.report_service_pb2 import GetReportRequest, IntervalLength, ReportGroup
from desk.v1.session_pb2 import EndReason, SessionFilter, SessionState
from desk.v1.session_service_pb2 import GetSessionRequest
from service.forget_targets import Target
from service.intervals import Length, bounds
from service.report import ReportSelection
from service.rpc.checks import MAX_ID_BYTES, MAX_VALUE_BYTES, Check, checking
from service.rpc.errors import quoted
from service.rpc.keys import MAX_KEYS, Apps
from service.tally import Thresholds
from service.view.index_pages import Order
from service.view.selection import EventSelection, SessionSelection, SnapshotSelection

MAX_BATCH = 1_000
DEFAULT_BATCH = 500
DEFAULT_LISTED = 20
MAX_LISTED = 200
"""Sessions and agents in a list of a board."""

MAX_INTERVALS = 3_000
MAX_RANGE = 400 * 86_400_000
"""Milliseconds of a report."""

MAX_THRESHOLD = 86_400_000
"""Milliseconds of a threshold: a day."""

REPORTED_BEFORE = 221_845_392_000_000
"""Milliseconds: the start of the year 9000, well before the last date of Python."""

_EVENT_TYPES = {number: name for name, number in EventType.items()}
_VERDICTS = {number: name for name, number in Verdict.items() if number}
_REASONS = {number: name for name, number in RejectionReason.items() if number}
_STATES = {number: name for name, number in SessionState.items() if number}
_RATINGS = {stars: str(stars) for stars in range(6)}
_END_REASONS = {number: name for name, number in EndReason.items()}

_DEFAULT_VERDICTS = Verdict.VERDICT_ACCEPTED, Verdict.VERDICT_UNRECOGNISED

_REPORT_GROUPS = {number: name for name, number in ReportGroup.items() if number}

_ORDER = re.compile(r"(begun_at|last_event_at|ended_at|state_since)(?: +(asc|desc))?")


def event_selection(check: Check, asked: EventFilter) -> EventSelection:
    verdicts = check.numbers("filter.verdicts", asked.verdicts, _VERDICTS)
    known = [verdict for verdict in verdicts if verdict in _VERDICTS] or _DEFAULT_VERDICTS
    return _events(check, asked, verdicts=sum(1 << verdict for verdict in known))


def rejections_selection(check: Check, request: ListRejectionsRequest) -> EventSelection:
    if request.filter.verdicts:
        check.wrong("filter.verdicts", "must be empty")
    reasons = check.numbers("reasons", request.reasons, _REASONS)
    return _events(check, request.filter, reasons=reasons)


def _events(
    check: Check, asked: EventFilter, *, verdicts: int = 0, reasons: tuple[int, ...] = ()
) -> EventSelection:
    return EventSelection(
        sdk_app_ids=check.apps("filter.sdk_app_ids", asked.sdk_app_ids),
        session_ids=check.names("filter.session_ids", asked.session_ids, most=MAX_ID_BYTES),
        types=check.numbers("filter.types", asked.types, _EVENT_TYPES),
        agent_ids=check.names("filter.agent_ids", asked.agent_ids),
        client_user_ids=check.names("filter.client_user_ids", asked.client_user_ids),
        channel_types=check.names("filter.channel_types", asked.channel_types),
        verdicts=verdicts,
        reasons=reasons,
    )


def snapshot_selection(events: EventSelection) -> SnapshotSelection:
    """Derive the sessions that a subscriber gets first from its filter of events."""
    return msgspec.convert(events, SnapshotSelection, from_attributes=True)


def thresholds(
    check: Check, field: str, asked: figures_pb2.Thresholds, defaults: Thresholds
) -> Thresholds:
    """Read thresholds, with defaults for those that a request leaves unset."""
    percent = check.not_negative(f"{field}.answer_percent", asked.answer_percent)
    if percent > 100:
        check.wrong(f"{field}.answer_percent", "must not be more than 100")
    given = {
        name: _threshold(check, f"{field}.{name}", getattr(asked, name))
        for name in ("answer_within", "short_abandon")
        if asked.HasField(name)
    }
    return defaults._replace(answer_percent=percent or defaults.answer_percent, **given)


def _threshold(check: Check, field: str, asked: Duration) -> int:
    milliseconds = asked.seconds * 1000 + asked.nanos // 1_000_000
    if not 0 <= milliseconds <= MAX_THRESHOLD or asked.nanos < 0:
        check.wrong(field, "must be from 0 s to a day")
    return milliseconds


def report_selection(
    check: Check, request: GetReportRequest, zone: tzinfo, defaults: Thresholds
) -> ReportSelection:
    groups = check.numbers("group_by", request.group_by, _REPORT_GROUPS)
    if len(groups) < len(request.group_by):
        check.wrong("group_by", "must not name a property twice")
    return ReportSelection(
        bounds=_report_bounds(check, request, zone),
        by_app=ReportGroup.REPORT_GROUP_SDK_APP in groups,
        by_channel=ReportGroup.REPORT_GROUP_CHANNEL_TYPE in groups,
        by_agent=ReportGroup.REPORT_GROUP_AGENT in groups,
        sdk_app_ids=check.apps("sdk_app_ids", request.sdk_app_ids),
        channel_types=check.names("channel_types", request.channel_types),
        agent_ids=check.names("agent_ids", request.agent_ids),
        thresholds=thresholds(check, "thresholds", request.thresholds, defaults),
    )


def _report_bounds(check: Check, request: GetReportRequest, zone: tzinfo) -> list[int]:
    between = check.between("range", request.range, present=True)
    if request.interval not in IntervalLength.values():
        check.wrong("interval", "is not known")
    for name, bound in (("start_time", between.start), ("end_time", between.end)):
        if bound is None:
            check.wrong(f"range.{name}", "is required")
        elif not 0 <= bound < REPORTED_BEFORE:
            check.wrong(f"range.{name}", "must lie between 1970 and 9000")
    if check.violations or between.start is None or between.end is None:
        return []
    if between.end - between.start > MAX_RANGE:
        check.wrong("range", "must not be longer than 400 days")
        return []
    found = bounds(between.start, between.end, Length(request.interval), zone)
    if len(found) > MAX_INTERVALS + 1:
        check.wrong("range", f"has {len(found) - 1:,} intervals: {MAX_INTERVALS:,} at most")
    return found


def session_selection(check: Check, asked: SessionFilter) -> SessionSelection:
    return SessionSelection(
        sdk_app_ids=check.apps("filter.sdk_app_ids", asked.sdk_app_ids),
        states=check.numbers("filter.states", asked.states, _STATES),
        agent_ids=check.names("filter.agent_ids", asked.agent_ids),
        client_user_ids=check.names("filter.client_user_ids", asked.client_user_ids),
        channel_types=check.names("filter.channel_types", asked.channel_types),
        end_reasons=check.numbers("filter.end_reasons", asked.end_reasons, _END_REASONS),
        begun=check.between("filter.begun", asked.begun, present=asked.HasField("begun")),
        ended=check.between("filter.ended", asked.ended, present=asked.HasField("ended")),
        active=check.between("filter.active", asked.active, present=asked.HasField("active")),
        ever_agent_ids=check.names("filter.ever_agent_ids", asked.ever_agent_ids),
        ratings=check.numbers("filter.ratings", asked.ratings, _RATINGS),
        min_forwards=check.not_negative("filter.min_forwards", asked.min_forwards),
        min_rejected_events=check.not_negative(
            "filter.min_rejected_events", asked.min_rejected_events
        ),
        never_answered=asked.never_answered,
    )


def as_of_time(check: Check, request: GetSessionRequest) -> int | None:
    """Read the time (ms, inclusive) to answer for; None = now."""
    if not request.HasField("as_of_time"):
        return None
    if request.as_of_revision:
        check.wrong("as_of_time", "cannot be combined with as_of_revision")
    return check.nanoseconds("as_of_time", request.as_of_time) // 1_000_000


def order(check: Check, order_by: str) -> Order:
    """Read the order of sessions; ascending by default (AIP-132)."""
    parsed = _ORDER.fullmatch(order_by.strip() or "begun_at desc")
    if parsed is None:
        choice = "begun_at, last_event_at, ended_at or state_since, then asc or desc"
        check.wrong("order_by", f"cannot be {quoted(order_by)}: {choice}")
        return Order("begun_at", descending=True)
    return Order(parsed[1], descending=parsed[2] == "desc")


def wanted_states(states: Sequence[int]) -> frozenset[int]:
    with checking() as check:
        wanted = check.numbers("states", states, _STATES)
        if not wanted:
            check.wrong("states", "must have at least one value")
    return frozenset(wanted)


def forget_target(request: ForgetRequest, apps: Apps) -> Target:
    """Read what a ForgetRequest selects.

    Raises:
        CallRefused: INVALID_REQUEST, SDK_APP_ID_REQUIRED.
    """
    field = request.WhichOneof("target")
    chosen: dict[str, Any] = {}
    with checking() as check:
        check.not_negative("sdk_app_id", request.sdk_app_id)
        match field:
            case None:
                check.wrong("target", "is required")
            case "sessions":
                _check_ids(check, request.sessions.session_ids)
            case "client_user_id" | "agent_id":
                chosen[field] = check.required(field, getattr(request, field), MAX_VALUE_BYTES)
            case _:
                chosen[field] = check.time(field, getattr(request, field))
    app = request.sdk_app_id or apps.only()
    sessions = ((app, each) for each in dict.fromkeys(request.sessions.session_ids))
    return Target(sdk_app_ids=(app,), sessions=tuple(sessions), **chosen)


def _check_ids(check: Check, session_ids: Sequence[str]) -> None:
    field = "sessions.session_ids"
    if not 1 <= len(session_ids) <= MAX_KEYS:
        check.wrong(field, f"must have 1 to {MAX_KEYS} elements")
    for number, each in enumerate(session_ids[:MAX_KEYS]):
        check.required(f"{field}[{number}]", each, MAX_ID_BYTES)


def subscription(request: SubscribeRequest) -> tuple[EventSelection, int]:
    """Read the filter of a subscriber, and the number of records per message."""
    with checking() as check:
        check.not_negative("after_revision", request.after_revision)
        if request.sessions_first and request.HasField("after_revision"):
            check.wrong("sessions_first", "cannot be combined with after_revision")
        batch = check.size("max_batch", request.max_batch, default=DEFAULT_BATCH, most=MAX_BATCH)
        selection = event_selection(check, request.filter)
    return selection, batch

"""Counts sessions by group, with the figures that contact centres watch."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from desk.v1.session_pb2 import EndReason, SessionState
from desk.v1.session_service_pb2 import (
    CountGroup,
    CountSessionsResponse,
    DurationSummary,
    SessionGroup,
)
from google.protobuf.duration_pb2 import Duration

from service.records import duration
from service.rpc.errors import Reason, Refused
from service.rpc.frames import header_of
from service.rpc.requests import Check
from service.view.errors import TimeLimitPassed
from service.view.reader import Reader, Row
from service.view.selection import SessionSelection

MAX_GROUPS = 1_000

COUNT_SECONDS = 10.0
"""Limit of one count, which has to read every session that is selected."""


class Grouping(NamedTuple):
    """A column or expression to group by, and the names of its groups on the wire."""

    sql: str
    key: Callable[[Any], str]


_STATES = {number: name for name, number in SessionState.items()}
_END_REASONS = {number: name for name, number in EndReason.items()}

GROUPINGS: dict[int, Grouping] = {
    CountGroup.COUNT_GROUP_UNSPECIFIED: Grouping("''", str),
    CountGroup.COUNT_GROUP_STATE: Grouping("state", _STATES.__getitem__),
    CountGroup.COUNT_GROUP_AGENT: Grouping("agent_id", str),
    CountGroup.COUNT_GROUP_CHANNEL_TYPE: Grouping("channel_type", str),
    CountGroup.COUNT_GROUP_END_REASON: Grouping("end_reason", _END_REASONS.__getitem__),
    CountGroup.COUNT_GROUP_SDK_APP: Grouping("CAST(sdk_app_id AS TEXT)", str),
}


def grouping(check: Check, group_by: int) -> Grouping:
    """Read the grouping of a request."""
    if group_by not in GROUPINGS:
        check.wrong("group_by", "is not known")
    return GROUPINGS.get(group_by, GROUPINGS[CountGroup.COUNT_GROUP_UNSPECIFIED])


def count(
    reader: Reader, selection: SessionSelection, grouping: Grouping, end: float
) -> CountSessionsResponse:
    """Count until an end (of `time.monotonic`), for `COUNT_SECONDS` at most.

    Raises:
        Refused: TOO_MANY_SESSIONS.
    """
    with reader.snapshot() as progress:
        try:
            with reader.limited(min(end - time.monotonic(), COUNT_SECONDS)):
                rows = reader.count(selection, grouping.sql, MAX_GROUPS)
        except TimeLimitPassed:
            raise Refused(
                Reason.TOO_MANY_SESSIONS, "counting took too long; select fewer sessions"
            ) from None
    groups = [_group(grouping.key(row[0]), row) for row in rows]
    groups.sort(key=lambda group: (-group.sessions, group.key))
    return CountSessionsResponse(
        header=header_of(progress),
        groups=groups,
        other_sessions=rows[0][-1] - sum(group.sessions for group in groups) if rows else 0,
    )


def _group(key: str, row: Row) -> SessionGroup:
    return SessionGroup(
        key=key,
        sessions=row[1],
        queue_wait=_summary(*row[2:5]),
        first_response=_summary(*row[5:8]),
        handle_time=_summary(*row[8:11]),
        ratings=row[11],
        mean_satisfaction=row[12],
    )


def _summary(sessions: int, mean: int | None, most: int | None) -> DurationSummary:
    return DurationSummary(sessions=sessions, mean=_duration(mean), max=_duration(most))


def _duration(milliseconds: int | None) -> Duration | None:
    return None if milliseconds is None else duration(milliseconds)

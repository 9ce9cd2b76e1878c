"""The options that select sessions and events: one for every field of the API's filters."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import click
from desk.v1.event_pb2 import EventFilter, EventType, RejectionReason, Verdict
from desk.v1.session_pb2 import EndReason, SessionFilter, SessionState, TimeRange
from google.protobuf.timestamp_pb2 import Timestamp

from command.cli.parameters import EnumName, Moment

Command = TypeVar("Command", bound=Callable[..., Any])

STATE = EnumName(SessionState.DESCRIPTOR)
END_REASON = EnumName(EndReason.DESCRIPTOR, zero="NONE")
EVENT_TYPE = EnumName(EventType.DESCRIPTOR)
VERDICT = EnumName(Verdict.DESCRIPTOR)
REJECTION_REASON = EnumName(RejectionReason.DESCRIPTOR)


def _many(option: str, field: str, of: Any, text: str) -> Callable[[Command], Command]:
    return click.option(option, field, type=of, multiple=True, help=text)


def _range(name: str, of: str) -> list[Callable[[Command], Command]]:
    return [
        click.option(
            f"--{name}-since",
            type=Moment(),
            help=f"{of} then or later: 15m ago, or a time, UTC unless it says otherwise.",
        ),
        click.option(f"--{name}-until", type=Moment(), help=f"{of} before."),
    ]


_WHO = [
    _many("--app", "sdk_app_ids", click.IntRange(1), "SDKAppID."),
    _many("--agent", "agent_ids", str, "Agent."),
    _many("--user", "client_user_ids", str, "User."),
    _many("--channel", "channel_types", str, "Channel, as Desk spells it."),
]
_SESSION = [
    *_WHO,
    _many("--state", "states", STATE, "State, such as QUEUED."),
    _many("--end-reason", "end_reasons", END_REASON, "End reason, such as USER, or NONE."),
    *_range("begun", "Begun"),
    *_range("ended", "Ended"),
    *_range("active", "Last event"),
]
_EVENT = [
    *_WHO,
    _many("--session", "session_ids", str, "Session."),
    _many("--type", "types", EVENT_TYPE, "Event type, such as SessionBegin."),
]


def session_options(command: Command) -> Command:
    """Add the options that `session_filter` reads. Each may be repeated: any value is enough."""
    return _add(_SESSION, command)


def event_options(command: Command) -> Command:
    """Add the options that `event_filter` reads."""
    return _add(_EVENT, command)


def _add(options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def session_filter(**given: Any) -> SessionFilter:
    """Build the filter from the values of `session_options`."""
    ranges: dict[str, Any] = {
        name: _time_range(given.pop(f"{name}_since"), given.pop(f"{name}_until"))
        for name in ("begun", "ended", "active")
    }
    return SessionFilter(**given, **ranges)


def event_filter(**given: Any) -> EventFilter:
    """Build the filter from the values of `event_options`."""
    return EventFilter(**given)


def _time_range(since: datetime | None, until: datetime | None) -> TimeRange | None:
    if since is None and until is None:
        return None
    return TimeRange(start_time=_timestamp(since), end_time=_timestamp(until))


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp

"""The options that select sessions and events: one for each field of the API's filters."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import click
from google.protobuf.timestamp_pb2 import Timestamp

from command.cli.parameters import EnumName, Moment
from desk.v1.event_pb2 import EventFilter, EventType, RejectionReason, Verdict
from desk.v1.session_pb2 import EndReason, SessionFilter, SessionState, TimeRange

Command = TypeVar("Command", bound=Callable[..., Any])

STATE = EnumName(SessionState.DESCRIPTOR)
END_REASON = EnumName(EndReason.DESCRIPTOR, zero="NONE")
EVENT_TYPE = EnumName(EventType.DESCRIPTOR)
VERDICT = EnumName(Verdict.DESCRIPTOR)
REJECTION_REASON = EnumName(RejectionReason.DESCRIPTOR)


def _repeatable(option: str, field: str, kind: Any, text: str) -> Callable[[Command], Command]:
    return click.option(option, field, type=kind, multiple=True, help=text)


def _range(name: str, verb: str) -> list[Callable[[Command], Command]]:
    return [
        click.option(f"--{name}-since", type=Moment(), help=f"{verb} at or after TIME."),
        click.option(f"--{name}-until", type=Moment(), help=f"{verb} before TIME."),
    ]


TIMES = """\
\b
A TIME is one of
  2025-04-07T11:32:06Z, 2025-04-07T19:32:06+08:00   a time with its offset
  2025-04-07T19:32:06, 2025-04-07                   a time in --time-zone
  30s, 15m, 2h, 3d                                  an age
"""
"""The part of a command's help that explains the times of `session_options`."""

_PARTIES = [
    _repeatable("--app", "sdk_app_ids", click.IntRange(1), "SDKAppID, a number."),
    _repeatable("--agent", "agent_ids", str, "Id of an agent."),
    _repeatable("--user", "client_user_ids", str, "Id of a user (ClientUserId)."),
    _repeatable("--channel", "channel_types", str, "Channel type as Desk spells it, such as SDK."),
]
_SESSION = [
    *_PARTIES,
    _repeatable("--state", "states", STATE, "State, such as QUEUED."),
    _repeatable("--end-reason", "end_reasons", END_REASON, "End reason, such as USER, or NONE."),
    *_range("begun", "Begun"),
    *_range("ended", "Ended"),
    *_range("active", "Last event"),
    _repeatable("--ever-agent", "ever_agent_ids", str, "Id of an agent who has or had it."),
    _repeatable("--rating", "ratings", click.IntRange(0, 5), "Rating, 1 to 5, or 0 = not rated."),
    click.option("--min-forwards", type=click.IntRange(0), help="Handed on at least so often."),
    click.option(
        "--min-rejected",
        "min_rejected_events",
        type=click.IntRange(0),
        help="At least so many rejected callbacks.",
    ),
    click.option("--never-answered", is_flag=True, help="An agent was asked for; none answered."),
]
_EVENT = [
    *_PARTIES,
    _repeatable("--session", "session_ids", str, "Id of a session."),
    _repeatable("--type", "types", EVENT_TYPE, "Event type, such as SessionBegin."),
]


app_option = click.option(
    "--app",
    "sdk_app_id",
    type=click.IntRange(1),
    help="SDKAppID, a number; needed if the service has several.",
)


def session_options(command: Command) -> Command:
    """Add the options that `session_filter` reads. A repeated option selects any of its values."""
    return _add(_SESSION, command)


def event_options(command: Command) -> Command:
    """Add the options that `event_filter` reads."""
    return _add(_EVENT, command)


def _add(options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def session_filter(**options: Any) -> SessionFilter:
    """Build the filter from the values of `session_options`."""
    ranges: dict[str, Any] = {
        name: _time_range(name, options.pop(f"{name}_since"), options.pop(f"{name}_until"))
        for name in ("begun", "ended", "active")
    }
    return SessionFilter(**options, **ranges)


def event_filter(**options: Any) -> EventFilter:
    """Build the filter from the values of `event_options`."""
    return EventFilter(**options)


def _time_range(name: str, since: datetime | None, until: datetime | None) -> TimeRange | None:
    if since is None and until is None:
        return None
    if since and until and since >= until:
        raise click.UsageError(f"--{name}-until must be later than --{name}-since")
    return TimeRange(start_time=_timestamp(since), end_time=_timestamp(until))


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp

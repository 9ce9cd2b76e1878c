"""The columns of sessions, records and counts, and the texts of one session."""

from collections.abc import Callable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

import click
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from command.cli.output import (
    duration_of,
    duration_text,
    local_time,
    passed_since,
    print_fields,
    time_text,
)
from command.cli.printers import Column, Layout, Value, cell_text
from command.cli.rows import Output
from desk.client import Explanation
from desk.v1.event_pb2 import SessionRecord, Verdict
from desk.v1.session_pb2 import Session, SessionState, Stay
from desk.v1.session_service_pb2 import SessionGroup
from display.texts import count_of, enum_name, format_seconds, format_time

SHORT_ID = 8
"""Characters of a session's id where there is no room for more."""

NARROW_NAME = 12
"""Characters to which the name of an agent or user may be cut."""


def field_value(message: Message, name: str) -> Value:
    """Return a field as the value of a cell; None if it is not set."""
    field = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    if field.is_repeated:
        return " ".join(map(str, value))
    if field.has_presence and not message.HasField(name):
        return None
    if field.enum_type is not None:
        return enum_name(message, name).replace("-", "") or None
    if isinstance(value, Timestamp):
        return local_time(value)
    return value  # type: ignore[no-any-return]


def _field(name: str, of: Callable[[Any], Message] = lambda row: row, **more: Any) -> Column[Any]:
    return Column(name, lambda row: field_value(of(row), name), **more)


def _stars(message: Any) -> int | None:
    return message.satisfaction or None


def _stays(session: Session) -> str:
    return ", ".join(map(_stay_text, session.stays))


def _stay_text(stay: Stay) -> str:
    """Return a stay as `WITH_AGENT ann 2m05s`; one that lasts without its length."""
    words = [enum_name(stay, "state"), stay.agent_id]
    if stay.HasField("end_time"):
        length = stay.end_time.ToMilliseconds() - stay.start_time.ToMilliseconds()
        words.append(format_seconds(length / 1000))
    return " ".join(filter(None, words))


_SESSION_LOOKS: dict[str, dict[str, Any]] = {
    "session_id": {"title": "SESSION"},
    "sdk_app_id": {"title": "APP", "common": True},
    "begun_at": {"title": "BEGUN"},
    "agent_id": {"title": "AGENT", "narrowest": NARROW_NAME},
    "client_user_id": {"title": "USER", "narrowest": NARROW_NAME},
    "end_reason": {"title": "END"},
    "last_event_at": {"title": "LAST EVENT"},
    "queue_wait": {"title": "WAIT", "right": True},
    "first_response": {"title": "REPLY", "right": True},
    "handle_time": {"title": "HANDLED", "right": True},
    "channel_type": {"title": "CHANNEL", "narrowest": 10},
    "satisfaction": {"title": "RATING", "right": True, "value": _stars},
    "rejected_events": {"title": "REJECTED", "right": True},
    "stays": {"value": _stays},
}
"""Columns that differ from those of the other fields."""


def _since(session: Session, field: str) -> Duration | None:
    if not session.HasField(field):  # type: ignore[arg-type]
        return None
    return duration_of(passed_since(getattr(session, field)))


def _waited(session: Session) -> Duration | None:
    """Return the time in the queue, with a stay that is not over; None if there was no stay."""
    stays = [session.queue_wait] if session.HasField("queue_wait") else []
    if session.state == SessionState.SESSION_STATE_QUEUED:
        stays += filter(None, [_since(session, "state_since")])
    return duration_of(sum(stay.ToMilliseconds() for stay in stays)) if stays else None


SESSIONS: Layout[Session] = Layout(
    [
        *(
            _field(field.name)._replace(**_SESSION_LOOKS.get(field.name, {}))
            for field in Session.DESCRIPTOR.fields
        ),
        Column("waited", _waited, right=True, composed=True),
        Column("age", lambda session: _since(session, "begun_at"), right=True, composed=True),
    ],
    shown=[
        "session_id", "state", "sdk_app_id", "agent_id", "waited", "age", "client_user_id",
        "end_reason", "begun_at", "last_event_at", "first_response", "handle_time",
        "channel_type", "satisfaction", "rejected_events",
    ],
)  # fmt: skip


def print_session(session: Session) -> None:
    times = [
        (
            field.name.removesuffix("_at").replace("_", " "),
            time_text(session, field.name, precision="milliseconds"),
        )
        for field in session.DESCRIPTOR.fields
        if field.name.endswith(("_at", "_since"))
    ]
    messages = (
        f"{session.user_messages} by the user, {session.robot_messages} by the chatbot, "
        f"{session.agent_messages} by agents"
    )
    print_fields(
        [
            ("session", session.session_id),
            ("app", str(session.sdk_app_id)),
            ("state", enum_name(session, "state")),
            ("end reason", enum_name(session, "end_reason")),
            ("user", session.client_user_id),
            ("customer service", session.customer_service_id),
            ("channel", session.channel_type),
            ("agent", session.agent_id),
            ("all agents", ", ".join(session.agent_ids)),
            *times,
            ("queue wait", duration_text(session, "queue_wait")),
            ("first response", duration_text(session, "first_response")),
            ("handle time", duration_text(session, "handle_time")),
            ("messages", messages),
            ("forwards", str(session.forwards)),
            ("rating", str(session.satisfaction or "-")),
            ("stays", _stays(session)),
            ("rejected callbacks", str(session.rejected_events)),
            ("revision", str(session.revision)),
        ]
    )


def _event(record: SessionRecord) -> Message:
    return record.event


def _verdict(record: SessionRecord) -> str:
    return enum_name(record, "verdict").lower()


def _effect(record: SessionRecord) -> str:
    """Return the reason of the rejection; otherwise the state before and, if it changed, after."""
    if record.rejection_reason:
        return enum_name(record, "rejection_reason")
    before, after = enum_name(record, "state_before"), enum_name(record, "state_after")
    return before if before == after else f"{before} → {after}"


def _late_by(record: SessionRecord) -> Duration | None:
    """Return the time by which the event was older than the newest of its session; None if new."""
    if record.HasField("late_by"):
        return record.late_by
    if record.revised or not record.HasField("session"):
        return None
    newest = record.session.last_event_at.ToMilliseconds()
    late = newest - record.event.event_time.ToMilliseconds()
    return duration_of(late) if late > 0 else None


def _note(record: SessionRecord) -> str:
    """Return the marks of a record that is not simply the newest event of its session."""
    late = _late_by(record)
    marks = [
        "" if record.verdict == Verdict.VERDICT_ACCEPTED else _verdict(record),
        "revised" if record.revised else "",
        f"late {cell_text(late)}" if late else "",
    ]
    return ", ".join(filter(None, marks))


def _revisions(record: SessionRecord) -> str:
    """Return the callback's revision and, if the verdict was revised later, that revision."""
    own = record.event.revision
    return str(own) if record.revision == own else f"{own}, revised at {record.revision}"


_RECORD_COLUMNS: list[Column[SessionRecord]] = [
    _field("revision", right=True),
    _field("ordinal", right=True),
    Column("event_revision", lambda record: record.event.revision, right=True),
    Column("revisions", _revisions, "REVISION", right=True, composed=True),
    _field("sdk_app_id", _event, title="APP"),
    _field("session_id", _event, title="SESSION"),
    Column("session", lambda record: record.event.session_id[:SHORT_ID], composed=True),
    _field("event_time", _event, title="TIME"),
    _field("received_at", _event, title="RECEIVED"),
    Column("event", lambda record: record.event.type_name or "(malformed)", narrowest=18),
    Column("verdict", _verdict),
    _field("rejection_reason", title="REASON"),
    _field("rejection_detail", title="WHY", narrowest=20),
    _field("state_before"),
    _field("state_after"),
    _field("session_state", title="STATE"),
    Column("effect", _effect, composed=True),
    Column("late_by", _late_by, "LATE", right=True),
    _field("revised"),
    Column("note", _note, narrowest=12, composed=True),
    _field("agent_id", _event, title="AGENT", narrowest=NARROW_NAME),
    _field("client_user_id", _event, title="USER", narrowest=NARROW_NAME),
    _field("channel_type", _event, title="CHANNEL", narrowest=10),
    Column("satisfaction", lambda record: _stars(record.event), "RATING", right=True),
]

EXPLANATION: Layout[SessionRecord] = Layout(
    _RECORD_COLUMNS,
    shown=["event_time", "event", "verdict", "effect", "late_by", "revisions", "rejection_detail"],
)
REJECTIONS: Layout[SessionRecord] = Layout(
    [
        column._replace(narrowest=10) if column.name == "event" else column
        for column in _RECORD_COLUMNS
    ],
    shown=[
        "revision",
        "session_id",
        "rejection_reason",
        "event",
        "received_at",
        "rejection_detail",
    ],
)

_FEED_LOOKS: dict[str, dict[str, Any]] = {
    "revision": {"title": "REV", "usual": 6},
    "session": {"usual": SHORT_ID},
    "event": {"usual": 23},
    "session_state": {"usual": 12},
    "effect": {"usual": 25},
    "note": {"usual": 12},
    "agent_id": {"usual": NARROW_NAME},
    "client_user_id": {"usual": NARROW_NAME},
}
"""Widths that fit most values of later rows."""

FEED: Layout[SessionRecord] = Layout(
    [
        column._replace(**_FEED_LOOKS.get(column.name, {})) for column in _RECORD_COLUMNS
    ],
    shown=[
        "revision", "event_time", "session", "event", "session_state", "note", "effect",
        "agent_id", "client_user_id",
    ],
)  # fmt: skip


def clock_text(value: Value, *, precision: str = "milliseconds") -> str:
    """Return the text of a cell. A time is shown without its day."""
    if isinstance(value, datetime):
        return format_time(value, precision=precision)[len("2025-04-07 ") :]
    return cell_text(value)


def exact_text(value: Value) -> str:
    """Return the text of a cell. A time is shown with its milliseconds."""
    if isinstance(value, datetime):
        return format_time(value, precision="milliseconds")
    return cell_text(value)


def print_explanation(
    explanation: Explanation, records: Sequence[SessionRecord], output: Output[SessionRecord]
) -> None:
    """Print every callback of a session in time order."""
    session = explanation.session
    state = enum_name(session, "state") if session else "not begun"
    days = {time_text(record.event, "event_time")[: len("2025-04-07")] for record in records}
    on = f", {min(days)}" if len(days) == 1 else ""
    callbacks = count_of(len(records), "callback")
    click.echo(f"{callbacks} at revision {explanation.revision}: {state}{on}")
    printer = output.printer(cell=clock_text if on else exact_text)
    printer.add(records)
    printer.flush()


def _summary(field: str, title: str) -> list[Column[SessionGroup]]:
    return [
        _field(figure, attrgetter(field), title=f"{figure.upper()} {title}", right=True)._replace(
            name=f"{figure}_{field}"
        )
        for figure in ("mean", "max")
    ]


def groups(by: str) -> Layout[SessionGroup]:
    """Return the columns of groups by a property of their sessions."""
    columns: list[Column[SessionGroup]] = [
        Column("key", lambda group: _key(group.key), by.upper() or "GROUP", narrowest=14),
        _field("sessions", right=True),
        *_summary("queue_wait", "WAIT"),
        *_summary("first_response", "REPLY"),
        *_summary("handle_time", "HANDLED"),
        _field("ratings", right=True),
        Column(
            "mean_rating",
            lambda group: round(group.mean_satisfaction, 2) if group.ratings else None,
            right=True,
        ),
    ]
    return Layout(columns, shown=[column.name for column in columns])


def _key(key: str) -> str:
    if key == "END_REASON_UNSPECIFIED":
        return "NONE"  # as in --end-reason
    return key.removeprefix("SESSION_STATE_").removeprefix("END_REASON_")

"""Tables of sessions, records and counts, as wide as the terminal."""

from collections.abc import Sequence

import click
from desk.client import Explanation, SessionCounts
from desk.v1.event_pb2 import SessionRecord
from desk.v1.session_pb2 import Session
from desk.v1.session_service_pb2 import SessionGroup

from command.cli.output import (
    Column,
    duration_text,
    enum_name,
    print_fields,
    print_table,
    time_text,
    width,
)
from simulator.words import count_of

CLOCK = "%H:%M:%S.%LZ"
DAY_AND_CLOCK = "%Y-%m-%d %H:%M:%S.%LZ"
DAY = "%Y-%m-%d"

WIDE = 140
"""Terminal width, in characters, from which on states and reason get columns of their own."""

_SESSIONS: list[Column[Session]] = [
    Column("SESSION", lambda session: session.session_id),
    Column("STATE", lambda session: enum_name(session, "state")),
    Column("BEGUN", lambda session: time_text(session, "begun_at")),
    Column("AGENT", lambda session: session.agent_id or "-", from_width=90, elastic=True),
    Column("USER", lambda session: session.client_user_id, from_width=110, elastic=True),
    Column("END", lambda session: enum_name(session, "end_reason"), from_width=125),
    Column("LAST EVENT", lambda session: time_text(session, "last_event_at"), from_width=145),
    Column("WAIT", lambda session: duration_text(session, "queue_wait"), 160, right=True),
    Column("REPLY", lambda session: duration_text(session, "first_response"), 160, right=True),
    Column("HANDLED", lambda session: duration_text(session, "handle_time"), 160, right=True),
    Column("CHANNEL", lambda session: session.channel_type, from_width=180, elastic=True),
    Column("RATED", lambda session: str(session.satisfaction or "-"), 180, right=True),
    Column("REJECTED", lambda session: str(session.rejected_events or "-"), 180, right=True),
]
_APP: Column[Session] = Column("APP", lambda session: str(session.sdk_app_id))


def print_sessions(sessions: Sequence[Session]) -> None:
    """Print a row for each session, with the app if there are several."""
    several = len({session.sdk_app_id for session in sessions}) > 1
    if sessions:
        print_table([_APP, *_SESSIONS] if several else _SESSIONS, sessions)
    else:
        click.echo("desk: no session matches", err=True)


def print_session(session: Session) -> None:
    """Print all fields of a session."""
    times = [
        (
            field.name.removesuffix("_at").replace("_", " "),
            time_text(session, field.name, form=DAY_AND_CLOCK),
        )
        for field in session.DESCRIPTOR.fields
        if field.name.endswith("_at")
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
            ("rejected callbacks", str(session.rejected_events)),
            ("revision", str(session.revision)),
        ]
    )


def verdict(record: SessionRecord) -> str:
    """Return the verdict in lower case."""
    return enum_name(record, "verdict").lower()


def reason(record: SessionRecord) -> str:
    """Return the reason of the rejection; empty if the event was not rejected."""
    return enum_name(record, "rejection_reason") if record.rejection_reason else ""


def states(record: SessionRecord) -> str:
    """Return the state before and, if it changed, the state after."""
    before, after = enum_name(record, "state_before"), enum_name(record, "state_after")
    return before if before == after else f"{before} → {after}"


def effect(record: SessionRecord) -> str:
    """Return the reason of the rejection or, for any other event, the states."""
    return reason(record) or states(record)


def event_name(record: SessionRecord) -> str:
    """Return the event type as Desk spells it."""
    return record.event.type_name or "(malformed)"


def print_explanation(explanation: Explanation, records: Sequence[SessionRecord]) -> None:
    """Print every callback of a session in time order."""
    session = explanation.session
    state = enum_name(session, "state") if session else "not begun"
    days = {time_text(record.event, "event_time", form=DAY) for record in records}
    on = f", {min(days)}" if len(days) == 1 else ""
    callbacks = count_of(len(records), "callback")
    click.echo(f"{callbacks} at revision {explanation.revision}: {state}{on}")
    print_table(_explanation_columns(CLOCK if on else DAY_AND_CLOCK), records)


def _explanation_columns(time_form: str) -> list[Column[SessionRecord]]:
    wide = width() >= WIDE
    return [
        Column("TIME", lambda record: time_text(record.event, "event_time", form=time_form)),
        Column("EVENT", event_name, elastic=True),
        Column("VERDICT", verdict),
        Column("STATE", states if wide else effect),
        Column("LATE", lambda record: duration_text(record, "late_by"), right=True),
        Column("REVISION", _revisions, from_width=100, right=True),
        Column("REASON", reason, from_width=WIDE),
        Column("WHY", lambda record: record.rejection_detail, from_width=170, elastic=True),
    ]


def _revisions(record: SessionRecord) -> str:
    """Return the callback's revision and, if the verdict was revised later, that revision."""
    own = record.event.revision
    return str(own) if record.revision == own else f"{own}, revised at {record.revision}"


_REJECTIONS: list[Column[SessionRecord]] = [
    Column("REVISION", lambda record: str(record.revision), right=True),
    Column("RECEIVED", lambda record: time_text(record.event, "received_at")),
    Column("REASON", lambda record: enum_name(record, "rejection_reason")),
    Column("EVENT", event_name, elastic=True),
    Column("SESSION", lambda record: record.event.session_id or "-", from_width=110),
    Column("WHY", lambda record: record.rejection_detail, from_width=150, elastic=True),
]


def print_rejections(records: Sequence[SessionRecord]) -> None:
    """Print a row for each record."""
    if records:
        print_table(_REJECTIONS, records)
    else:
        click.echo("desk: no callback is rejected", err=True)


def print_groups(counts: SessionCounts, by: str) -> None:
    """Print a row for each group."""
    columns: list[Column[SessionGroup]] = [
        Column(by.upper() or "GROUP", lambda group: _key(group.key) or "-", elastic=True),
        Column("SESSIONS", lambda group: str(group.sessions), right=True),
        Column("WAIT", lambda group: duration_text(group.queue_wait, "mean"), right=True),
        Column("MAX", lambda group: duration_text(group.queue_wait, "max"), right=True),
        Column("REPLY", lambda group: duration_text(group.first_response, "mean"), right=True),
        Column("MAX", lambda group: duration_text(group.first_response, "max"), right=True),
        Column("HANDLED", lambda group: duration_text(group.handle_time, "mean"), right=True),
        Column("MAX", lambda group: duration_text(group.handle_time, "max"), right=True),
        Column(
            "RATED",
            lambda group: f"{group.mean_satisfaction:.1f}" if group.ratings else "-",
            right=True,
        ),
    ]
    if counts.groups:
        print_table(columns, counts.groups)
    if counts.other_sessions:
        click.echo(f"and {count_of(counts.other_sessions, 'session')} in smaller groups")


def _key(key: str) -> str:
    if key == "END_REASON_UNSPECIFIED":
        return "NONE"  # as in --end-reason
    return key.removeprefix("SESSION_STATE_").removeprefix("END_REASON_")

"""What people are shown of sessions, records and counts, as wide as their terminal is."""

from collections.abc import Sequence

import click
from desk.v1.event_pb2 import SessionRecord
from desk.v1.session_pb2 import Session
from desk.v1.session_service_pb2 import (
    CountSessionsResponse,
    ExplainSessionResponse,
    SessionGroup,
)

from command.cli.output import Column, how_long, name_of, print_facts, print_table, when, width
from command.words import count_of

CLOCK = "%H:%M:%S.%LZ"
DAY_AND_CLOCK = "%Y-%m-%d %H:%M:%S.%LZ"
DAY = "%Y-%m-%d"

WIDE = 140
"""Columns of terminal from which on there is room for everything that matters."""

_SESSIONS: list[Column[Session]] = [
    Column("SESSION", lambda session: session.session_id),
    Column("STATE", lambda session: name_of(session, "state")),
    Column("BEGUN", lambda session: when(session, "begun_at")),
    Column("AGENT", lambda session: session.agent_id or "-", from_width=90, elastic=True),
    Column("USER", lambda session: session.client_user_id, from_width=110, elastic=True),
    Column("END", lambda session: name_of(session, "end_reason"), from_width=125),
    Column("LAST EVENT", lambda session: when(session, "last_event_at"), from_width=145),
    Column("WAIT", lambda session: how_long(session, "queue_wait"), 160, right=True),
    Column("REPLY", lambda session: how_long(session, "first_response"), 160, right=True),
    Column("HANDLED", lambda session: how_long(session, "handle_time"), 160, right=True),
    Column("CHANNEL", lambda session: session.channel_type, from_width=180, elastic=True),
    Column("RATED", lambda session: str(session.satisfaction or "-"), 180, right=True),
    Column("REJECTED", lambda session: str(session.rejected_events or "-"), 180, right=True),
]
_APP: Column[Session] = Column("APP", lambda session: str(session.sdk_app_id))


def print_sessions(sessions: Sequence[Session]) -> None:
    """Print a row for each; the app only if there are several."""
    several = len({session.sdk_app_id for session in sessions}) > 1
    if sessions:
        print_table([_APP, *_SESSIONS] if several else _SESSIONS, sessions)
    else:
        click.echo("desk: no session is like that", err=True)


def print_session(session: Session) -> None:
    """Print everything that is known of one session."""
    times = [
        (
            field.name.removesuffix("_at").replace("_", " "),
            when(session, field.name, form=DAY_AND_CLOCK),
        )
        for field in session.DESCRIPTOR.fields
        if field.name.endswith("_at")
    ]
    messages = (
        f"{session.user_messages} by the user, {session.robot_messages} by the chatbot, "
        f"{session.agent_messages} by agents"
    )
    print_facts(
        [
            ("session", session.session_id),
            ("app", str(session.sdk_app_id)),
            ("state", name_of(session, "state")),
            ("end reason", name_of(session, "end_reason")),
            ("user", session.client_user_id),
            ("customer service", session.customer_service_id),
            ("channel", session.channel_type),
            ("agent", session.agent_id),
            ("all agents", ", ".join(session.agent_ids)),
            *times,
            ("queue wait", how_long(session, "queue_wait")),
            ("first response", how_long(session, "first_response")),
            ("handle time", how_long(session, "handle_time")),
            ("messages", messages),
            ("forwards", str(session.forwards)),
            ("rating", str(session.satisfaction or "-")),
            ("rejected callbacks", str(session.rejected_events)),
            ("revision", str(session.revision)),
        ]
    )


def verdict(record: SessionRecord) -> str:
    """The verdict in a word."""
    return name_of(record, "verdict").lower()


def reason(record: SessionRecord) -> str:
    """Why it was rejected; empty if it was not."""
    return name_of(record, "rejection_reason") if record.rejection_reason else ""


def states(record: SessionRecord) -> str:
    """The state before and, if it changed, after."""
    before, after = name_of(record, "state_before"), name_of(record, "state_after")
    return before if before == after else f"{before} → {after}"


def outcome(record: SessionRecord) -> str:
    """Why it was rejected, or what it did: a rejected event does nothing."""
    return reason(record) or states(record)


def event_name(record: SessionRecord) -> str:
    """The event as Desk spells it."""
    return record.event.type_name or "(malformed)"


def print_story(story: ExplainSessionResponse) -> None:
    """Print every callback of a session in its time order."""
    days = {when(record.event, "event_time", form=DAY) for record in story.records}
    session = story.session
    state = name_of(session, "state") if story.HasField("session") else "not begun"
    on = f", {min(days)}" if len(days) == 1 else ""
    callbacks = count_of(len(story.records), "callback")
    click.echo(f"{callbacks} at revision {story.header.revision}: {state}{on}")
    print_table(_story_columns(CLOCK if on else DAY_AND_CLOCK), story.records)


def _story_columns(time_form: str) -> list[Column[SessionRecord]]:
    wide = width() >= WIDE
    return [
        Column("TIME", lambda record: when(record.event, "event_time", form=time_form)),
        Column("EVENT", event_name, elastic=True),
        Column("VERDICT", verdict),
        Column("STATE", states if wide else outcome),
        Column("LATE", lambda record: how_long(record, "late_by"), right=True),
        Column("REVISION", _revisions, from_width=100, right=True),
        Column("REASON", reason, from_width=WIDE),
        Column("WHY", lambda record: record.rejection_detail, from_width=170, elastic=True),
    ]


def _revisions(record: SessionRecord) -> str:
    """Where the callback stands in the journal and, if later, where its verdict was published."""
    own = record.event.revision
    return str(own) if record.revision == own else f"{own}, revised at {record.revision}"


_REJECTIONS: list[Column[SessionRecord]] = [
    Column("REVISION", lambda record: str(record.revision), right=True),
    Column("RECEIVED", lambda record: when(record.event, "received_at")),
    Column("REASON", lambda record: name_of(record, "rejection_reason")),
    Column("EVENT", event_name, elastic=True),
    Column("SESSION", lambda record: record.event.session_id or "-", from_width=110),
    Column("WHY", lambda record: record.rejection_detail, from_width=150, elastic=True),
]


def print_rejections(records: Sequence[SessionRecord]) -> None:
    """Print a row for each."""
    if records:
        print_table(_REJECTIONS, records)
    else:
        click.echo("desk: nothing stands rejected", err=True)


def print_groups(counted: CountSessionsResponse, by: str) -> None:
    """Print a row for each group."""
    columns: list[Column[SessionGroup]] = [
        Column(by.upper() or "GROUP", lambda group: _key(group.key) or "-", elastic=True),
        Column("SESSIONS", lambda group: str(group.sessions), right=True),
        Column("WAIT", lambda group: how_long(group.queue_wait, "mean"), right=True),
        Column("MAX", lambda group: how_long(group.queue_wait, "max"), right=True),
        Column("REPLY", lambda group: how_long(group.first_response, "mean"), right=True),
        Column("MAX", lambda group: how_long(group.first_response, "max"), right=True),
        Column("HANDLED", lambda group: how_long(group.handle_time, "mean"), right=True),
        Column("MAX", lambda group: how_long(group.handle_time, "max"), right=True),
        Column(
            "RATED",
            lambda group: f"{group.mean_satisfaction:.1f}" if group.ratings else "-",
            right=True,
        ),
    ]
    if counted.groups:
        print_table(columns, counted.groups)
    if counted.other_sessions:
        click.echo(f"and {count_of(counted.other_sessions, 'session')} in smaller groups")


def _key(key: str) -> str:
    if key == "END_REASON_UNSPECIFIED":
        return "NONE"  # as in --end-reason
    return key.removeprefix("SESSION_STATE_").removeprefix("END_REASON_")

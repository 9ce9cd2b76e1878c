"""Builds what the feed stores and the API sends: desk.v1 records and sessions, serialised.

Deterministic: the same entry and outcome give the same bytes, which the feed's digest relies on.
"""

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from desk.v1 import event_pb2, session_pb2
from journal.callback import Callback
from journal.entry import Entry
from service.machine import EndReason, Event, State
from service.message import message
from service.session import Outcome, Reason, Session, Verdict, explain

STATES = {
    state: session_pb2.SESSION_STATE_UNSPECIFIED
    if state is State.NEW
    else session_pb2.SessionState.Value(f"SESSION_STATE_{state.name}")
    for state in State
}
END_REASONS = {
    reason: session_pb2.EndReason.Value(f"END_REASON_{reason.name}") for reason in EndReason
}
TYPES: dict[str, event_pb2.EventType.ValueType] = {
    event.value: event_pb2.EventType.Value(f"EVENT_TYPE_{event.name}") for event in Event
}
VERDICTS = {verdict: event_pb2.Verdict.Value(f"VERDICT_{verdict.name}") for verdict in Verdict}
REASONS = {
    reason: event_pb2.RejectionReason.Value(f"REJECTION_REASON_{reason.name}") for reason in Reason
}

MALFORMED = Outcome(Verdict.REJECTED, Reason.MALFORMED, State.NEW, State.NEW)
"""What is made of a body that is no callback."""

ABOUT_AN_AGENT = frozenset(
    {
        Event.TRANSFER_TO_HUMAN_SUCCESS.value,
        Event.AGENT_FORWARD.value,
        Event.HUMAN_USER_SEND_MSG.value,
        Event.HUMAN_AGENT_SEND_MSG.value,
        Event.SESSION_AGENT_END.value,
        Event.SESSION_AGENT_TIMEOUT_END.value,
        Event.SATISFACTION_SELECTED.value,
    }
)
"""Events whose `AgentId` means something; elsewhere Desk fills in a default."""

_MESSAGES = frozenset(
    {
        Event.CHATBOT_USER_SEND_MSG.value,
        Event.CHATBOT_ROBOT_SEND_MSG.value,
        Event.HUMAN_USER_SEND_MSG.value,
        Event.HUMAN_AGENT_SEND_MSG.value,
    }
)
_CONTACTS = frozenset({Event.SESSION_BEGIN.value, Event.TRANSFER_TO_HUMAN_SUCCESS.value})


def event_type(name: str) -> event_pb2.EventType.ValueType:
    """The desk.v1.EventType of an event as Desk spells it."""
    return TYPES.get(name, event_pb2.EVENT_TYPE_UNRECOGNISED)


def event(entry: Entry, callback: Callback | None) -> event_pb2.Event:
    """Build the event of an entry; `callback` is None if its body is malformed."""
    return event_pb2.Event(
        revision=entry.revision,
        sdk_app_id=entry.sdk_app_id,
        received_at=timestamp(entry.received_at),
        request_id=entry.request_id,
        client_ip=entry.client_ip,
        platform=entry.platform,
        id=entry.id.hex(),
        raw_body=entry.body,
        **(_facts(callback) if callback else {}),
    )


def _facts(callback: Callback) -> dict[str, Any]:
    """What a callback says, as far as its event makes it meaningful."""
    name = callback.event
    facts = {
        "session_id": callback.session_id,
        "type": event_type(name),
        "type_name": name,
        "event_time": timestamp(callback.event_time),
        "channel_type": callback.channel_type,
        "client_user_id": callback.client_user_id,
        "customer_service_id": callback.customer_service_id,
        "cloud_custom_data": callback.cloud_custom_data,
    }
    if name in _MESSAGES:
        facts["message"] = message(callback.message_key, callback.message)
    if name in ABOUT_AN_AGENT:
        facts["agent_id"] = callback.agent_id
    if name == Event.AGENT_FORWARD:
        facts["forward_from_agent_id"] = callback.forward_from_agent_id
    if name == Event.SATISFACTION_SELECTED:
        facts["satisfaction"] = callback.satisfaction or 0
    if name in _CONTACTS:
        facts["agent_contacted_user"] = callback.is_contact_user
    return facts


def record(
    *,
    revision: int,
    ordinal: int,
    event: event_pb2.Event,
    outcome: Outcome,
    session_state: State,
    problem: str = "",
) -> event_pb2.SessionRecord:
    """Build the record that publishes `outcome` for `event` at `revision`.

    `problem` says what is wrong with a malformed body.
    """
    return event_pb2.SessionRecord(
        revision=revision,
        ordinal=ordinal,
        event=event,
        verdict=VERDICTS[outcome.verdict],
        rejection_reason=REASONS[outcome.reason],
        rejection_detail=problem or explain(outcome, event.type_name),
        state_before=STATES[outcome.before],
        state_after=STATES[outcome.after],
        session_state=STATES[session_state],
        revised=ordinal > 0,
    )


_PLAIN = (
    "client_user_id",
    "customer_service_id",
    "channel_type",
    "agent_id",
    "satisfaction",
    "user_messages",
    "robot_messages",
    "agent_messages",
    "forwards",
    "rejected_events",
)
_TIMES = (
    "begun_at",
    "transfer_requested_at",
    "queued_at",
    "agent_joined_at",
    "first_agent_reply_at",
    "closing_at",
    "ended_at",
    "last_event_at",
)
_DURATIONS = ("queue_wait", "first_response", "handle_time")


def _set_plain(name: str, message: session_pb2.Session, value: str | int) -> None:
    setattr(message, name, value)


def _set_milliseconds(name: str, message: session_pb2.Session, milliseconds: int | None) -> None:
    """Set a Timestamp or a Duration: they have the same fields."""
    if milliseconds is None:
        message.ClearField(name)  # type: ignore[arg-type]  # a name of our own list
        return
    field: Timestamp | Duration = getattr(message, name)
    field.seconds = milliseconds // 1000
    field.nanos = milliseconds % 1000 * 1_000_000
    field.SetInParent()  # also zero is a duration


_look = attrgetter(*_PLAIN, *_TIMES, *_DURATIONS)
_SETTERS: tuple[Callable[[session_pb2.Session, Any], None], ...] = (
    *(partial(_set_plain, name) for name in _PLAIN),
    *(partial(_set_milliseconds, name) for name in _TIMES + _DURATIONS),
)


class SessionMessage:
    """A session as desk.v1 shows it, brought up to date by what has changed.

    Most callbacks change two or three of its thirty fields; building all of them anew took a fifth
    of the fold's time.

    Attributes:
        bytes: the desk.v1.Session, serialised.
    """

    def __init__(self, sdk_app_id: int, session_id: str) -> None:
        self.bytes = b""
        self._shown = _look(Session())
        self._agents: tuple[str, ...] = ()
        self._message = session_pb2.Session(sdk_app_id=sdk_app_id, session_id=session_id)

    def update(self, session: Session, revision: int) -> bytes:
        """Show `session` as it is after `revision`, the last one that belongs to it."""
        message, shown, self._shown = self._message, self._shown, _look(session)
        message.revision = revision
        message.state = STATES[session.state]
        message.end_reason = END_REASONS[session.end_reason]
        if session.agent_ids != self._agents:
            message.agent_ids[:] = self._agents = session.agent_ids
        for put, old, new in zip(_SETTERS, shown, self._shown, strict=True):
            if new != old:
                put(message, new)
        self.bytes = message.SerializeToString(deterministic=True)
        return self.bytes


def timestamp(milliseconds: int) -> Timestamp:
    """Unix milliseconds as a protobuf Timestamp."""
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def duration(milliseconds: int) -> Duration:
    """Non-negative milliseconds as a protobuf Duration."""
    return Duration(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)

"""Builds what the feed stores and the API sends: desk.v1 records and sessions, serialised.

Deterministic: the same entry and outcome give the same bytes, which the feed's digest relies on.
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import compress
from operator import is_not
from typing import NamedTuple

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from msgspec.structs import astuple

from desk.v1 import event_pb2, session_pb2
from journal.callback import Callback
from journal.entry import Entry
from service import wire
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

CACHED = 1_024
"""Outcomes, names and combinations of names whose serialised form is kept at hand."""

_EVENT = wire.Encoders(event_pb2.Event)
_RECORD = wire.Encoders(event_pb2.SessionRecord)
_SESSION = wire.Encoders(session_pb2.Session)
_OF_ENUM: dict[str, wire.Encoder] = {
    "state": {state: _SESSION.state(number) for state, number in STATES.items()}.__getitem__,
    "end_reason": {
        reason: _SESSION.end_reason(number) for reason, number in END_REASONS.items()
    }.__getitem__,
}


def event_type(name: str) -> event_pb2.EventType.ValueType:
    """The desk.v1.EventType of an event as Desk spells it."""
    return TYPES.get(name, event_pb2.EVENT_TYPE_UNRECOGNISED)


def agent_id(callback: Callback) -> str:
    """The agent that a callback names; "" if it is about none."""
    return callback.agent_id if callback.event in ABOUT_AN_AGENT else ""


def event(entry: Entry, callback: Callback | None) -> bytes:
    """Write the event of an entry; `callback` is None if its body is malformed."""
    which, what = (_which(callback), _what(callback)) if callback else (b"", b"")
    return b"".join(
        (
            _EVENT.revision(entry.revision),
            _app(entry.sdk_app_id),
            which,
            _EVENT.received_at(entry.received_at),
            _EVENT.request_id(entry.request_id),
            _sender(entry.client_ip, entry.platform),
            what,
            _EVENT.id(entry.id.hex()),
            _EVENT.raw_body(entry.body),
        )
    )


_app = lru_cache(CACHED)(_EVENT.sdk_app_id)


@lru_cache(CACHED)
def _sender(client_ip: str, platform: str) -> bytes:
    return b"".join((_EVENT.client_ip(client_ip), _EVENT.platform(platform)))


def _which(callback: Callback) -> bytes:
    return b"".join(
        (
            _EVENT.session_id(callback.session_id),
            _kind(callback.event),
            _EVENT.event_time(callback.event_time),
        )
    )


@lru_cache(CACHED)
def _kind(name: str) -> bytes:
    return b"".join((_EVENT.type(event_type(name)), _EVENT.type_name(name)))


def _what(callback: Callback) -> bytes:
    """What a callback says, as far as its event makes it meaningful."""
    parties = _parties(callback.channel_type, callback.client_user_id, callback.customer_service_id)
    say = _SAYINGS.get(callback.event)
    said = say(callback) if say else b""
    return b"".join((parties, said, _EVENT.cloud_custom_data(callback.cloud_custom_data)))


@lru_cache(CACHED)
def _parties(channel_type: str, client_user_id: str, customer_service_id: str) -> bytes:
    return b"".join(
        (
            _EVENT.channel_type(channel_type),
            _EVENT.client_user_id(client_user_id),
            _EVENT.customer_service_id(customer_service_id),
        )
    )


def _agent(callback: Callback) -> bytes:
    return _EVENT.agent_id(callback.agent_id)


def _forward(callback: Callback) -> bytes:
    return _agent(callback) + _EVENT.forward_from_agent_id(callback.forward_from_agent_id)


def _message(callback: Callback) -> bytes:
    return _EVENT.message(message(callback.message_key, callback.message))


def _message_of_human(callback: Callback) -> bytes:
    return _agent(callback) + _message(callback)


def _rating(callback: Callback) -> bytes:
    return _agent(callback) + _EVENT.satisfaction(callback.satisfaction or 0)


def _contact(callback: Callback) -> bytes:
    return _EVENT.agent_contacted_user(callback.is_contact_user)


def _joining(callback: Callback) -> bytes:
    return _agent(callback) + _contact(callback)


_SAYINGS: dict[str, Callable[[Callback], bytes]] = {
    Event.SESSION_BEGIN.value: _contact,
    Event.CHATBOT_USER_SEND_MSG.value: _message,
    Event.CHATBOT_ROBOT_SEND_MSG.value: _message,
    Event.TRANSFER_TO_HUMAN_SUCCESS.value: _joining,
    Event.AGENT_FORWARD.value: _forward,
    Event.HUMAN_USER_SEND_MSG.value: _message_of_human,
    Event.HUMAN_AGENT_SEND_MSG.value: _message_of_human,
    Event.SESSION_AGENT_END.value: _agent,
    Event.SESSION_AGENT_TIMEOUT_END.value: _agent,
    Event.SATISFACTION_SELECTED.value: _rating,
}
"""What an event means beyond where, when and who; elsewhere Desk fills in defaults."""


class Judgement(NamedTuple):
    """What the feed says of a callback beside what it says itself, in desk.v1 numbers.

    Attributes:
        fields: of the record: verdict, reason and states, as serialised.
    """

    type: event_pb2.EventType.ValueType
    verdict: event_pb2.Verdict.ValueType
    reason: event_pb2.RejectionReason.ValueType
    fields: bytes


@lru_cache(CACHED)
def judgement(outcome: Outcome, event: str, session_state: State) -> Judgement:
    """Say what was made of an event, as Desk spells it, in a session that is now in a state."""
    return Judgement(
        event_type(event),
        VERDICTS[outcome.verdict],
        REASONS[outcome.reason],
        judged(outcome, explain(outcome, event), session_state),
    )


def judged(outcome: Outcome, detail: str, session_state: State) -> bytes:
    """Write the fields of a record that tell `outcome`; `detail` says why it was rejected."""
    return b"".join(
        (
            _RECORD.verdict(VERDICTS[outcome.verdict]),
            _RECORD.rejection_reason(REASONS[outcome.reason]),
            _RECORD.rejection_detail(detail),
            _RECORD.state_before(STATES[outcome.before]),
            _RECORD.state_after(STATES[outcome.after]),
            _RECORD.session_state(STATES[session_state]),
        )
    )


def record(revision: int, ordinal: int, event: bytes, judged: bytes) -> bytes:
    """Write the record that publishes what was made of `event` at `revision`."""
    return b"".join(
        (
            _RECORD.revision(revision),
            _RECORD.ordinal(ordinal),
            _RECORD.event(event),
            judged,
            _RECORD.revised(ordinal > 0),
        )
    )


def event_of(record: bytes) -> bytes:
    """The event of a record, as it was written."""
    return event_pb2.SessionRecord.FromString(record).event.SerializeToString(deterministic=True)


_PLACES = {name: place for place, name in enumerate(vars(_SESSION))}
"""Where each field stands in a serialised session."""
_FIELDS = range(len(Session.__struct_fields__))
_WRITERS: list[tuple[int, wire.Encoder] | None] = [
    (_PLACES[name], _OF_ENUM.get(name) or getattr(_SESSION, name)) if name in _PLACES else None
    for name in Session.__struct_fields__
]
"""Field by field: where it stands in a serialised session, and how; None if it is not shown."""


class SessionMessage:
    """A session as desk.v1 shows it, brought up to date by what has changed.

    Most callbacks change two or three of its thirty fields; writing all of them anew took a fifth
    of the fold's time.

    Attributes:
        bytes: the desk.v1.Session, serialised.
    """

    def __init__(self, sdk_app_id: int, session_id: str) -> None:
        self.bytes = b""
        self._shown = _NEW
        self._parts = [b""] * len(_PLACES)
        self._parts[_PLACES["sdk_app_id"]] = _app_of_session(sdk_app_id)
        self._parts[_PLACES["session_id"]] = _SESSION.session_id(session_id)

    def update(self, session: Session, revision: int) -> bytes:
        """Show `session` as it is after `revision`, the last one that belongs to it."""
        parts, now = self._parts, astuple(session)
        for number in compress(_FIELDS, map(is_not, now, self._shown)):
            if writer := _WRITERS[number]:
                place, write = writer
                parts[place] = write(now[number])
        self._shown = now
        parts[_FIRST_RESPONSE] = _SESSION.first_response(session.first_response)
        parts[_REVISION] = _SESSION.revision(revision)
        self.bytes = b"".join(parts)
        return self.bytes


_NEW = astuple(Session())
_REVISION = _PLACES["revision"]
_FIRST_RESPONSE = _PLACES["first_response"]
_app_of_session = lru_cache(CACHED)(_SESSION.sdk_app_id)


def timestamp(milliseconds: int) -> Timestamp:
    """Unix milliseconds as a protobuf Timestamp."""
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def duration(milliseconds: int) -> Duration:
    """Non-negative milliseconds as a protobuf Duration."""
    return Duration(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)

"""Builds what the feed stores and the API sends: desk.v1 events, records and sessions, serialised.

Deterministic: the same entry and outcome give the same bytes, which the feed's digest relies on. So
no message here may have a map: protobuf writes its entries in any order. A record, its event and
its session are written one by one; their bytes are joined, as protobuf allows.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import compress
from operator import is_not
from typing import Any, NamedTuple

from desk.v1 import event_pb2, session_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from msgspec.structs import astuple

from callback.decoder import Callback
from journal.entry import Entry
from service.machine import EndReason, Event, State
from service.message import fill
from service.session import ABOUT_AN_AGENT, Outcome, Reason, Session, Verdict, explain

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
"""The outcome of a body that is no callback."""

CACHED = 1_024
"""Outcomes whose serialised form is kept at hand."""


def event_type(name: str) -> event_pb2.EventType.ValueType:
    """Return the desk.v1.EventType of an event as Desk spells it."""
    return TYPES.get(name, event_pb2.EVENT_TYPE_UNRECOGNISED)


def event(entry: Entry, callback: Callback | None) -> bytes:
    """Write a record of an entry's event alone; `callback` is None if its body is malformed."""
    whole = event_pb2.SessionRecord()
    made = whole.event
    made.revision = entry.revision
    made.sdk_app_id = entry.sdk_app_id
    made.request_id = entry.request_id
    made.client_ip = entry.client_ip
    made.platform = entry.platform
    made.id = entry.id.hex()
    made.raw_body = entry.body
    set_time(made.received_at, entry.received_at)
    if callback:
        _fill(made, callback)
    return whole.SerializeToString()


def _fill(made: event_pb2.Event, callback: Callback) -> None:
    """Say what a callback says, as far as its event makes it meaningful."""
    name = callback.event
    made.session_id = callback.session_id
    made.type = event_type(name)
    made.type_name = name
    set_time(made.event_time, callback.event_time)
    made.channel_type = callback.channel_type
    made.client_user_id = callback.client_user_id
    made.customer_service_id = callback.customer_service_id
    if callback.cloud_custom_data:
        made.cloud_custom_data = callback.cloud_custom_data
    if name in ABOUT_AN_AGENT:
        made.agent_id = callback.agent_id
    if add := _CONTENT.get(name):
        add(made, callback)


def _forward(made: event_pb2.Event, callback: Callback) -> None:
    made.forward_from_agent_id = callback.forward_from_agent_id


def _message(made: event_pb2.Event, callback: Callback) -> None:
    fill(made.message, callback.message_key, callback.message)


def _rating(made: event_pb2.Event, callback: Callback) -> None:
    made.satisfaction = callback.stars


def _contact(made: event_pb2.Event, callback: Callback) -> None:
    made.agent_contacted_user = callback.is_contact_user


_CONTENT: dict[str, Callable[[event_pb2.Event, Callback], None]] = {
    Event.SESSION_BEGIN.value: _contact,
    Event.CHATBOT_USER_SEND_MSG.value: _message,
    Event.CHATBOT_ROBOT_SEND_MSG.value: _message,
    Event.TRANSFER_TO_HUMAN_SUCCESS.value: _contact,
    Event.AGENT_FORWARD.value: _forward,
    Event.HUMAN_USER_SEND_MSG.value: _message,
    Event.HUMAN_AGENT_SEND_MSG.value: _message,
    Event.SATISFACTION_SELECTED.value: _rating,
}
"""The meaning of an event beyond where, when and who; elsewhere Desk fills in defaults."""


class Judgement(NamedTuple):
    """The verdict on a callback as the feed shows it, in desk.v1 numbers.

    Attributes:
        fields: of the record: verdict, reason and states. One message, kept for all records.
    """

    type: event_pb2.EventType.ValueType
    verdict: event_pb2.Verdict.ValueType
    reason: event_pb2.RejectionReason.ValueType
    fields: event_pb2.SessionRecord


@lru_cache(CACHED)
def judgement(outcome: Outcome, event: str, session_state: State) -> Judgement:
    """Say what was made of an event, as Desk spells it, in a session that is now in a state."""
    return Judgement(
        event_type(event),
        VERDICTS[outcome.verdict],
        REASONS[outcome.reason],
        verdict_fields(outcome, explain(outcome, event), session_state),
    )


def verdict_fields(outcome: Outcome, detail: str, session_state: State) -> event_pb2.SessionRecord:
    """Make the fields of a record that tell `outcome`; `detail` says why it was rejected."""
    return event_pb2.SessionRecord(
        verdict=VERDICTS[outcome.verdict],
        rejection_reason=REASONS[outcome.reason],
        rejection_detail=detail,
        state_before=STATES[outcome.before],
        state_after=STATES[outcome.after],
        session_state=STATES[session_state],
    )


def record(fields: event_pb2.SessionRecord, revision: int, ordinal: int) -> bytes:
    """Write a record, without its event, with `verdict_fields` and its place in the feed."""
    fields.revision = revision
    fields.ordinal = ordinal
    fields.revised = ordinal > 0
    return fields.SerializeToString()


Setter = Callable[[session_pb2.Session, Session], None]


def _set_value(name: str, shown: session_pb2.Session, session: Session) -> None:
    setattr(shown, name, getattr(session, name))


def _set_number(
    name: str, numbers: dict[Any, Any], shown: session_pb2.Session, session: Session
) -> None:
    setattr(shown, name, numbers[getattr(session, name)])


def _set_names(name: str, shown: session_pb2.Session, session: Session) -> None:
    shown.ClearField(name)  # type: ignore[arg-type]
    getattr(shown, name).extend(getattr(session, name))


def _set_moment(name: str, shown: session_pb2.Session, session: Session) -> None:
    value = getattr(session, name)
    if value is None:
        shown.ClearField(name)  # type: ignore[arg-type]
    else:
        set_time(getattr(shown, name), value)


_NUMBERS: dict[str, dict[Any, Any]] = {"state": STATES, "end_reason": END_REASONS}
_FIELDS = session_pb2.Session.DESCRIPTOR.fields_by_name


def _setter(name: str) -> Setter:
    if name in _NUMBERS:
        return partial(_set_number, name, _NUMBERS[name])
    if _FIELDS[name].message_type is not None:
        return partial(_set_moment, name)
    return partial(_set_names if _FIELDS[name].is_repeated else _set_value, name)


DERIVED = {
    "queue_wait": ("queue_time", "queue_stays"),
    "handle_time": ("handled_time", "handled_stays"),
    "first_response": ("first_agent_reply_at", "transfer_requested_at", "agent_joined_at"),
}
"""Fields of a session as it is shown, by what they are computed from."""


def _setters(name: str) -> list[Setter]:
    shown = [derived for derived, sources in DERIVED.items() if name in sources]
    return list(map(_setter, [name, *shown] if name in _FIELDS else shown))


_SETTERS = list(map(_setters, Session.__struct_fields__))
"""Field by field of the fold's session: what sets the fields that show it."""
_HAVE_TEXT = [type(value) in (str, tuple) for value in astuple(Session())]
_PLACES = range(len(_SETTERS))
_NEW = astuple(Session())


REPLACED = 8
"""Texts that are replaced in a message before another one is made. protobuf frees what they were
only with the whole message."""


class SessionMessage:
    """A session as desk.v1 shows it: one message, brought up to date by what has changed.

    Most callbacks change two or three of its thirty fields.

    Attributes:
        bytes: the desk.v1.Session, serialised.
    """

    def __init__(self, sdk_app_id: int, session_id: str) -> None:
        self.bytes = b""
        self._message = session_pb2.Session(sdk_app_id=sdk_app_id, session_id=session_id)
        self._shown = _NEW
        self._replaced = 0  # texts

    def update(self, session: Session, revision: int) -> bytes:
        """Show `session` as it is after `revision`, the last one that belongs to it."""
        shown, now = self._message, astuple(session)
        for place in compress(_PLACES, map(is_not, now, self._shown)):
            self._replaced += _HAVE_TEXT[place]
            for set_field in _SETTERS[place]:
                set_field(shown, session)
        self._shown = now
        shown.revision = revision
        self.bytes = shown.SerializeToString()
        if self._replaced > REPLACED:
            self._message = session_pb2.Session.FromString(self.bytes)
            self._replaced = 0
        return self.bytes


def set_time(time: Timestamp | Duration, milliseconds: int) -> None:
    """Set a Timestamp or a Duration that is a field of a message."""
    if not milliseconds:
        time.SetInParent()
    time.seconds = milliseconds // 1000
    time.nanos = milliseconds % 1000 * 1_000_000


def timestamp(milliseconds: int) -> Timestamp:
    """Unix milliseconds as a protobuf Timestamp."""
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def duration(milliseconds: int) -> Duration:
    """Non-negative milliseconds as a protobuf Duration."""
    return Duration(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)

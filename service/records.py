"""Builds what the feed stores and the API sends: desk.v1 records and sessions, serialised.

Deterministic: the same entry and outcome give the same bytes, which the feed's digest relies on.
"""

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
    built = event_pb2.Event(
        revision=entry.revision,
        sdk_app_id=entry.sdk_app_id,
        received_at=timestamp(entry.received_at),
        request_id=entry.request_id,
        client_ip=entry.client_ip,
        platform=entry.platform,
        id=entry.id.hex(),
        raw_body=entry.body,
    )
    if callback is not None:
        _describe(built, callback)
    return built


def _describe(built: event_pb2.Event, callback: Callback) -> None:
    name = callback.event
    built.session_id = callback.session_id
    built.type = event_type(name)
    built.type_name = name
    built.event_time.CopyFrom(timestamp(callback.event_time))
    built.channel_type = callback.channel_type
    built.client_user_id = callback.client_user_id
    built.customer_service_id = callback.customer_service_id
    built.cloud_custom_data = callback.cloud_custom_data
    if name in ABOUT_AN_AGENT:
        built.agent_id = callback.agent_id
    if name == Event.AGENT_FORWARD:
        built.forward_from_agent_id = callback.forward_from_agent_id
    if name in _MESSAGES:
        built.message.CopyFrom(message(callback.message_key, callback.message))
    if name == Event.SATISFACTION_SELECTED:
        built.satisfaction = callback.satisfaction or 0
    if name in _CONTACTS:
        built.agent_contacted_user = callback.is_contact_user


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


def session_message(
    sdk_app_id: int, session_id: str, session: Session, revision: int
) -> session_pb2.Session:
    """Build the session as it is after `revision`, the last one that belongs to it."""
    return session_pb2.Session(
        sdk_app_id=sdk_app_id,
        session_id=session_id,
        state=STATES[session.state],
        end_reason=END_REASONS[session.end_reason],
        client_user_id=session.client_user_id,
        customer_service_id=session.customer_service_id,
        channel_type=session.channel_type,
        agent_id=session.agent_id,
        agent_ids=session.agent_ids,
        satisfaction=session.satisfaction,
        user_messages=session.user_messages,
        robot_messages=session.robot_messages,
        agent_messages=session.agent_messages,
        forwards=session.forwards,
        rejected_events=session.rejected_events,
        revision=revision,
        begun_at=_optional_time(session.begun_at),
        transfer_requested_at=_optional_time(session.transfer_requested_at),
        queued_at=_optional_time(session.queued_at),
        agent_joined_at=_optional_time(session.agent_joined_at),
        first_agent_reply_at=_optional_time(session.first_agent_reply_at),
        closing_at=_optional_time(session.closing_at),
        ended_at=_optional_time(session.ended_at),
        last_event_at=_optional_time(session.last_event_at),
        queue_wait=_optional_duration(session.queue_wait),
        first_response=_optional_duration(session.first_response),
        handle_time=_optional_duration(session.handle_time),
    )


def timestamp(milliseconds: int) -> Timestamp:
    """Unix milliseconds as a protobuf Timestamp."""
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def duration(milliseconds: int) -> Duration:
    """Non-negative milliseconds as a protobuf Duration."""
    return Duration(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def _optional_time(milliseconds: int | None) -> Timestamp | None:
    return None if milliseconds is None else timestamp(milliseconds)


def _optional_duration(milliseconds: int | None) -> Duration | None:
    return None if milliseconds is None else duration(milliseconds)

"""The fold: what a session's callbacks, taken in their time order, make of it.

Pure: no I/O, no clock; all times are milliseconds of Desk's clock, taken from the callbacks.
The rules and figures are described in proto/desk/v1/session.proto.
"""

from collections.abc import Callable
from enum import StrEnum

import msgspec

from journal.callback import Callback
from service.machine import END_REASONS, EndReason, Event, State, fire

MAX_AGENTS = 100
"""Agents that a session remembers; a snapshot of it stands with each of its callbacks."""


class Verdict(StrEnum):
    """What the state machine made of a callback."""

    ACCEPTED = "ACCEPTED"
    REJECTED = "REJECTED"
    UNRECOGNISED = "UNRECOGNISED"


class Reason(StrEnum):
    """Why a callback was rejected."""

    UNSPECIFIED = "UNSPECIFIED"
    NOT_BEGUN = "NOT_BEGUN"
    ALREADY_BEGUN = "ALREADY_BEGUN"
    AFTER_END = "AFTER_END"
    IMPOSSIBLE_IN_STATE = "IMPOSSIBLE_IN_STATE"
    MALFORMED = "MALFORMED"


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """A callback's verdict, and the states around its place in time order."""

    verdict: Verdict
    reason: Reason
    before: State
    after: State


class Session(msgspec.Struct, omit_defaults=True, gc=False):
    """A session between two callbacks. Fields as in desk.v1.Session; None = has not happened.

    Attributes:
        agent_initiated: `IsContactUser` of the session's `SessionBegin`.
        queued_since, handled_since: when the present stay in the queue, or with agents, began.
        queue_wait, handle_time: sums of the finished stays, in ms.
    """

    state: State = State.NEW
    end_reason: EndReason = EndReason.UNSPECIFIED
    client_user_id: str = ""
    customer_service_id: str = ""
    channel_type: str = ""
    agent_id: str = ""
    agent_ids: tuple[str, ...] = ()
    satisfaction: int = 0
    user_messages: int = 0
    robot_messages: int = 0
    agent_messages: int = 0
    forwards: int = 0
    rejected_events: int = 0
    begun_at: int | None = None
    transfer_requested_at: int | None = None
    queued_at: int | None = None
    agent_joined_at: int | None = None
    first_agent_reply_at: int | None = None
    closing_at: int | None = None
    ended_at: int | None = None
    last_event_at: int | None = None
    queue_wait: int | None = None
    handle_time: int | None = None
    agent_initiated: bool = False
    queued_since: int | None = None
    handled_since: int | None = None

    @property
    def first_response(self) -> int | None:
        """From the first request for an agent, or else the agent's joining, to the first reply."""
        reply, asked = self.first_agent_reply_at, self.transfer_requested_at
        if reply is None:
            return None
        if asked is None or asked > reply:  # asked for only later: the agent contacted the user
            asked = self.agent_joined_at
        return None if asked is None else reply - asked


# Python 3.11 looks a member up in its class by way of a function: four times for each callback.
_NEW, _QUEUED = State.NEW, State.QUEUED
_ACCEPTED, _UNRECOGNISED = Verdict.ACCEPTED, Verdict.UNRECOGNISED
_NO_REASON = Reason.UNSPECIFIED


def apply(session: Session, callback: Callback) -> Outcome:
    """Take the next callback in time order into `session`, which is changed in place."""
    before = session.state
    event = _EVENTS.get(callback.event)
    if event is None:
        _note_time(session, callback.event_time)
        return Outcome(_UNRECOGNISED, _NO_REASON, before, before)
    if not fire(session, event, callback):
        session.rejected_events += 1
        return Outcome(Verdict.REJECTED, _reason(before, event), before, before)
    if before is not session.state:
        _move(session, before, callback.event_time)
    _EFFECTS[event](session, callback)
    _name(session, callback)
    _note_time(session, callback.event_time)
    return Outcome(_ACCEPTED, _NO_REASON, before, session.state)


def explain(outcome: Outcome, event: str) -> str:
    """Say in a sentence why `event` was rejected; "" if it was not."""
    if outcome.reason is _NO_REASON:
        return ""
    return _SENTENCES[outcome.reason].format(event=event, state=outcome.before)


_EVENTS = {event.value: event for event in Event}

_SENTENCES = {
    Reason.UNSPECIFIED: "",
    Reason.NOT_BEGUN: "{event} came before any SessionBegin",
    Reason.ALREADY_BEGUN: "a second SessionBegin: the session was already {state}",
    Reason.AFTER_END: "{event} came after the session had ended",
    Reason.IMPOSSIBLE_IN_STATE: "{event} is impossible while the session is {state}",
    Reason.MALFORMED: "",
}


def _reason(state: State, event: Event) -> Reason:
    if state is State.NEW:
        return Reason.NOT_BEGUN
    if event is Event.SESSION_BEGIN:
        return Reason.ALREADY_BEGUN
    return Reason.AFTER_END if state is State.ENDED else Reason.IMPOSSIBLE_IN_STATE


_HANDLED = (State.WITH_AGENT, State.FORWARDED)
_WITHOUT_AGENT = (State.CHATBOT, State.TRANSFERRING, State.QUEUED)


def _move(session: Session, before: State, now: int) -> None:
    """Keep the books of a change of state: stays, first times, and who has the session."""
    after = session.state
    if before is _QUEUED:
        session.queue_wait = (session.queue_wait or 0) + _since(session.queued_since, now)
        session.queued_since = None
    if before in _HANDLED and after not in _HANDLED:
        session.handle_time = (session.handle_time or 0) + _since(session.handled_since, now)
        session.handled_since = None
    if after in _HANDLED and before not in _HANDLED:
        session.handled_since = now
    if after in _WITHOUT_AGENT:
        session.agent_id = ""
    if after in _ARRIVALS:
        _ARRIVALS[after](session, now)


def _since(start: int | None, now: int) -> int:
    return 0 if start is None else now - start


def _enter_transferring(session: Session, now: int) -> None:
    if session.transfer_requested_at is None:
        session.transfer_requested_at = now


def _enter_queue(session: Session, now: int) -> None:
    session.queued_since = now
    if session.queued_at is None:
        session.queued_at = now


def _enter_agent(session: Session, now: int) -> None:
    if session.agent_joined_at is None:
        session.agent_joined_at = now


def _enter_closing(session: Session, now: int) -> None:
    session.closing_at = now


def _enter_end(session: Session, now: int) -> None:
    session.ended_at = now


_ARRIVALS: dict[State, Callable[[Session, int], None]] = {
    State.TRANSFERRING: _enter_transferring,
    State.QUEUED: _enter_queue,
    State.WITH_AGENT: _enter_agent,
    State.CLOSING: _enter_closing,
    State.ENDED: _enter_end,
}


def _begin(session: Session, callback: Callback) -> None:
    session.begun_at = callback.event_time
    session.agent_initiated = callback.is_contact_user


def _count_user(session: Session, _callback: Callback) -> None:
    session.user_messages += 1


def _count_robot(session: Session, _callback: Callback) -> None:
    session.robot_messages += 1


def _count_agent(session: Session, callback: Callback) -> None:
    session.agent_messages += 1
    if session.first_agent_reply_at is None:
        session.first_agent_reply_at = callback.event_time
    _hand_to(session, callback.agent_id)


def _join(session: Session, callback: Callback) -> None:
    _hand_to(session, callback.agent_id)


def _forward(session: Session, callback: Callback) -> None:
    session.forwards += 1
    _remember(session, callback.forward_from_agent_id)
    _hand_to(session, callback.agent_id)


def _rate(session: Session, callback: Callback) -> None:
    if callback.satisfaction is not None:
        session.satisfaction = callback.satisfaction


def _end_because(session: Session, callback: Callback) -> None:
    session.end_reason = END_REASONS[_EVENTS[callback.event]]


def _nothing(_session: Session, _callback: Callback) -> None:
    """The change of state says it all."""


_EFFECTS: dict[Event, Callable[[Session, Callback], None]] = {
    Event.SESSION_BEGIN: _begin,
    Event.CHATBOT_USER_SEND_MSG: _count_user,
    Event.CHATBOT_ROBOT_SEND_MSG: _count_robot,
    Event.TRANSFERRING_TO_HUMAN: _nothing,
    Event.TRANSFERRING_TO_HUMAN_WAIT: _nothing,
    Event.NO_AGENT_ONLINE: _nothing,
    Event.TRANSFER_TO_HUMAN_SUCCESS: _join,
    Event.AGENT_FORWARD: _forward,
    Event.HUMAN_USER_SEND_MSG: _count_user,
    Event.HUMAN_AGENT_SEND_MSG: _count_agent,
    Event.SESSION_END: _nothing,
    Event.SATISFACTION_SELECTED: _rate,
    **dict.fromkeys(END_REASONS, _end_because),
}


def _hand_to(session: Session, agent_id: str) -> None:
    if agent_id:
        session.agent_id = agent_id
        _remember(session, agent_id)


def _remember(session: Session, agent_id: str) -> None:
    if agent_id and agent_id not in session.agent_ids and len(session.agent_ids) < MAX_AGENTS:
        session.agent_ids = (*session.agent_ids, agent_id)


def _name(session: Session, callback: Callback) -> None:
    """Keep the first name that the callbacks give for who and how."""
    if not session.client_user_id:
        session.client_user_id = callback.client_user_id
    if not session.customer_service_id:
        session.customer_service_id = callback.customer_service_id
    if not session.channel_type:
        session.channel_type = callback.channel_type


def _note_time(session: Session, event_time: int) -> None:
    if session.state is not _NEW:
        session.last_event_at = max(session.last_event_at or 0, event_time)

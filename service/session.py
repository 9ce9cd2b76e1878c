"""One step of the fold: what a callback does to its session at its place in time order.

A step depends on two things only: the session's `Core` before it and the callback's `Facts`. What
it adds to the session's figures does not depend on what other steps add. So a late callback costs
the steps whose core it changes, and no more.

Pure: no I/O, no clock; all times are milliseconds of Desk's clock, taken from the callbacks. The
rules and figures are described in proto/desk/v1/session.proto.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum

import msgspec
from msgspec.structs import replace

from callback.decoder import Callback
from service.machine import END_REASONS, EndReason, Event, State, destination

MAX_AGENTS = 20
"""Agents that a session lists: a snapshot of the session stands with each of its callbacks."""


class Verdict(StrEnum):
    """The state machine's answer to a callback."""

    ACCEPTED = "ACCEPTED"
    REJECTED = "REJECTED"
    UNRECOGNISED = "UNRECOGNISED"


class Reason(StrEnum):
    """The reason for a rejection."""

    UNSPECIFIED = "UNSPECIFIED"
    NOT_BEGUN = "NOT_BEGUN"
    ALREADY_BEGUN = "ALREADY_BEGUN"
    AFTER_END = "AFTER_END"
    IMPOSSIBLE_IN_STATE = "IMPOSSIBLE_IN_STATE"
    MALFORMED = "MALFORMED"
    SESSION_TOO_LONG = "SESSION_TOO_LONG"


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """A callback's verdict, and the states around its place in time order."""

    verdict: Verdict
    reason: Reason
    before: State
    after: State


class Facts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The part of a callback that the fold needs. It is stored, and histories are made from it.

    Agents are empty where the event has none. All else is as in `callback.decoder.Callback`.
    """

    event_time: int
    event: str
    identity: bytes
    client_user_id: str = ""
    customer_service_id: str = ""
    channel_type: str = ""
    agent_id: str = ""
    forward_from_agent_id: str = ""
    message_key: str = ""
    is_contact_user: bool = False
    stars: int = 0


class Core(msgspec.Struct, array_like=True, gc=False):
    """The part of a session that later steps depend on. Shared between callbacks: never changed.

    Attributes:
        agent_initiated: `IsContactUser` of the session's `SessionBegin`.
        agent_ids: the last `MAX_AGENTS` who had the session, the latest last.
        queued_since, handled_since: the beginning of the present stay in the queue, with agents.
        user_key, robot_key, agent_key: `MsgKey` of the side's last message.
    """

    state: State = State.NEW
    end_reason: EndReason = EndReason.UNSPECIFIED
    agent_initiated: bool = False
    agent_id: str = ""
    agent_ids: tuple[str, ...] = ()
    satisfaction: int = 0
    queued_since: int | None = None
    handled_since: int | None = None
    user_key: str = ""
    robot_key: str = ""
    agent_key: str = ""


class Session(msgspec.Struct, omit_defaults=True, gc=False):
    """A session after its last callback. Fields as in desk.v1.Session; None = has not happened.

    Attributes:
        state, end_reason, agent_id, agent_ids, satisfaction: as in the last `Core`.
        queue_time, handled_time: sums of the finished stays, in ms.
        queue_stays, handled_stays: the number of finished stays.
    """

    state: State = State.NEW
    end_reason: EndReason = EndReason.UNSPECIFIED
    agent_id: str = ""
    agent_ids: tuple[str, ...] = ()
    satisfaction: int = 0
    client_user_id: str = ""
    customer_service_id: str = ""
    channel_type: str = ""
    begun_at: int | None = None
    transfer_requested_at: int | None = None
    queued_at: int | None = None
    agent_joined_at: int | None = None
    first_agent_reply_at: int | None = None
    closing_at: int | None = None
    ended_at: int | None = None
    last_event_at: int | None = None
    user_messages: int = 0
    robot_messages: int = 0
    agent_messages: int = 0
    forwards: int = 0
    rejected_events: int = 0
    agent_count: int = 0
    queue_time: int = 0
    queue_stays: int = 0
    handled_time: int = 0
    handled_stays: int = 0

    @property
    def queue_wait(self) -> int | None:
        """Time in the queue; None before the first stay is over."""
        return self.queue_time if self.queue_stays else None

    @property
    def handle_time(self) -> int | None:
        """Time with agents; None before the first stay is over."""
        return self.handled_time if self.handled_stays else None

    @property
    def first_response(self) -> int | None:
        """From the first request for an agent, or else the agent's joining, to the first reply."""
        reply, asked = self.first_agent_reply_at, self.transfer_requested_at
        if reply is None:
            return None
        if asked is None or asked > reply:  # asked for only later: the agent contacted the user
            asked = self.agent_joined_at
        return None if asked is None else reply - asked


Sum = tuple[str, int]
"""A field of `Session` and what is added to it."""


Step = tuple[Outcome, Core, Sequence[Sum]]
"""A callback's outcome, the core after it, and what it adds to the session's sums."""

FIRSTS = (
    "client_user_id",
    "customer_service_id",
    "channel_type",
    "begun_at",
    "transfer_requested_at",
    "queued_at",
    "agent_joined_at",
    "first_agent_reply_at",
    "closing_at",
    "ended_at",
)
"""Fields of `Session` that have the first value in time order that a callback offers."""

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

# Python 3.11 looks a member up in its class by way of a function: four times for each callback.
_NEW, _QUEUED, _CLOSING = State.NEW, State.QUEUED, State.CLOSING
_ACCEPTED, _REJECTED, _UNRECOGNISED = Verdict.ACCEPTED, Verdict.REJECTED, Verdict.UNRECOGNISED
_NO_REASON = Reason.UNSPECIFIED
_FORWARD, _AGENT_SAYS = Event.AGENT_FORWARD.value, Event.HUMAN_AGENT_SEND_MSG.value
_EVENTS = {event.value: event for event in Event}

_REJECTION: Sequence[Sum] = (("rejected_events", 1),)


def without_message(callback: Callback, identity: bytes) -> Facts:
    """Take what the fold needs of a callback: all but the message, which may be long."""
    event = callback.event
    return Facts(
        callback.event_time,
        event,
        identity,
        callback.client_user_id,
        callback.customer_service_id,
        callback.channel_type,
        callback.agent_id if event in ABOUT_AN_AGENT else "",
        callback.forward_from_agent_id if event == _FORWARD else "",
        callback.message_key,
        callback.is_contact_user,
        callback.stars,
    )


def step(core: Core, facts: Facts) -> Step:
    """Take the next callback in time order; `core` is not changed."""
    before = core.state
    event = _EVENTS.get(facts.event)
    if event is None:
        return Outcome(_UNRECOGNISED, _NO_REASON, before, before), core, ()
    after = destination(core, event, facts)
    if after is None:
        return Outcome(_REJECTED, _reason(before, event), before, before), core, _REJECTION
    following = replace(core, state=after)
    sums: list[Sum] = []
    if after is not before:
        _move(following, before, facts.event_time, sums)
    _EFFECTS[event](following, facts, sums)
    return Outcome(_ACCEPTED, _NO_REASON, before, after), following, sums


def too_long(core: Core) -> Outcome:
    """Return the outcome of a callback that a session has no room for."""
    return Outcome(_REJECTED, Reason.SESSION_TOO_LONG, core.state, core.state)


def offers(outcome: Outcome, facts: Facts) -> list[tuple[str, int | str]]:
    """List the values that a callback offers for `FIRSTS`."""
    if outcome.verdict is not _ACCEPTED:
        return []
    offered: list[tuple[str, int | str]] = []
    if facts.client_user_id:
        offered.append(("client_user_id", facts.client_user_id))
    if facts.customer_service_id:
        offered.append(("customer_service_id", facts.customer_service_id))
    if facts.channel_type:
        offered.append(("channel_type", facts.channel_type))
    if outcome.after is not outcome.before and outcome.after in _ENTERED:
        offered.append((_ENTERED[outcome.after], facts.event_time))
    if facts.event == _AGENT_SAYS and outcome.before is not _CLOSING:
        offered.append(("first_agent_reply_at", facts.event_time))
    return offered


def may_offer(session: Session, outcome: Outcome, facts: Facts) -> bool:
    """Say whether a callback may offer what `session` has not got yet; costs less than to look."""
    return (
        outcome.after is not outcome.before
        or not (session.client_user_id and session.customer_service_id and session.channel_type)
        or (facts.event == _AGENT_SAYS and session.first_agent_reply_at is None)
    )


def is_sign_of_life(outcome: Outcome) -> bool:
    """Say whether a callback counts for `last_event_at`."""
    return outcome.verdict is not _REJECTED and outcome.after is not _NEW


def explain(outcome: Outcome, event: str) -> str:
    """Say in a sentence why `event` was rejected; "" if it was not."""
    if outcome.reason is _NO_REASON:
        return ""
    return _SENTENCES[outcome.reason].format(event=event, state=outcome.before)


_SENTENCES = {
    Reason.UNSPECIFIED: "",
    Reason.NOT_BEGUN: "{event} came before any SessionBegin",
    Reason.ALREADY_BEGUN: "a second SessionBegin: the session was already {state}",
    Reason.AFTER_END: "{event} came after the session had ended",
    Reason.IMPOSSIBLE_IN_STATE: "{event} is impossible while the session is {state}",
    Reason.MALFORMED: "",
    Reason.SESSION_TOO_LONG: "{event} came when the session had used up what one session may have",
}


def _reason(state: State, event: Event) -> Reason:
    if state is State.NEW:
        return Reason.NOT_BEGUN
    if event is Event.SESSION_BEGIN:
        return Reason.ALREADY_BEGUN
    return Reason.AFTER_END if state is State.ENDED else Reason.IMPOSSIBLE_IN_STATE


_HANDLED = (State.WITH_AGENT, State.FORWARDED)

_ENTERED = {
    State.CHATBOT: "begun_at",  # by SessionBegin first of all
    State.TRANSFERRING: "transfer_requested_at",
    State.QUEUED: "queued_at",
    State.WITH_AGENT: "agent_joined_at",
    State.CLOSING: "closing_at",
    State.ENDED: "ended_at",
}
"""The field that says when a state was first entered."""


def _move(core: Core, before: State, now: int, sums: list[Sum]) -> None:
    """Keep the books of stays when the state changes."""
    after = core.state
    if before is _QUEUED:
        sums += (("queue_time", _since(core.queued_since, now)), ("queue_stays", 1))
        core.queued_since = None
    if before in _HANDLED and after not in _HANDLED:
        sums += (("handled_time", _since(core.handled_since, now)), ("handled_stays", 1))
        core.handled_since = None
    if after is _QUEUED:
        core.queued_since = now
    if after in _HANDLED and before not in _HANDLED:
        core.handled_since = now


def _since(start: int | None, now: int) -> int:
    return 0 if start is None else now - start


def _begin(core: Core, facts: Facts, _sums: list[Sum]) -> None:
    core.agent_initiated = facts.is_contact_user


def _user_says(core: Core, facts: Facts, sums: list[Sum]) -> None:
    if _is_another(facts.message_key, core.user_key):
        sums.append(("user_messages", 1))
    core.user_key = facts.message_key


def _robot_says(core: Core, facts: Facts, sums: list[Sum]) -> None:
    if _is_another(facts.message_key, core.robot_key):
        sums.append(("robot_messages", 1))
    core.robot_key = facts.message_key


def _agent_says(core: Core, facts: Facts, sums: list[Sum]) -> None:
    if _is_another(facts.message_key, core.agent_key):
        sums.append(("agent_messages", 1))
    core.agent_key = facts.message_key
    if core.state is not _CLOSING:  # what crosses with the end is no response
        _hand_to(core, facts.agent_id, sums)


def _is_another(key: str, last: str) -> bool:
    """A streamed message is reported many times, as it grows, with one key."""
    return not key or key != last


def _join(core: Core, facts: Facts, sums: list[Sum]) -> None:
    _hand_to(core, facts.agent_id, sums)


def _forward(core: Core, facts: Facts, sums: list[Sum]) -> None:
    sums.append(("forwards", 1))
    _remember(core, facts.forward_from_agent_id, sums)
    _hand_to(core, facts.agent_id, sums)


def _rate(core: Core, facts: Facts, _sums: list[Sum]) -> None:
    core.satisfaction = facts.stars or core.satisfaction


def _end_because(core: Core, facts: Facts, _sums: list[Sum]) -> None:
    core.end_reason = END_REASONS[_EVENTS[facts.event]]


def _wait(core: Core, _facts: Facts, _sums: list[Sum]) -> None:
    core.agent_id = ""


def _nothing(_core: Core, _facts: Facts, _sums: list[Sum]) -> None:
    """The change of state says it all."""


_EFFECTS: dict[Event, Callable[[Core, Facts, list[Sum]], None]] = {
    Event.SESSION_BEGIN: _begin,
    Event.CHATBOT_USER_SEND_MSG: _user_says,
    Event.CHATBOT_ROBOT_SEND_MSG: _robot_says,
    Event.TRANSFERRING_TO_HUMAN: _wait,
    Event.TRANSFERRING_TO_HUMAN_WAIT: _wait,
    Event.NO_AGENT_ONLINE: _wait,
    Event.TRANSFER_TO_HUMAN_SUCCESS: _join,
    Event.AGENT_FORWARD: _forward,
    Event.HUMAN_USER_SEND_MSG: _user_says,
    Event.HUMAN_AGENT_SEND_MSG: _agent_says,
    Event.SESSION_END: _nothing,
    Event.SATISFACTION_SELECTED: _rate,
    **dict.fromkeys(END_REASONS, _end_because),
}


def _hand_to(core: Core, agent_id: str, sums: list[Sum]) -> None:
    if agent_id:
        core.agent_id = agent_id
        _remember(core, agent_id, sums)


def _remember(core: Core, agent_id: str, sums: list[Sum]) -> None:
    agents = core.agent_ids
    if not agent_id or agents[-1:] == (agent_id,):
        return
    if agent_id in agents:
        agents = tuple(each for each in agents if each != agent_id)
    else:
        sums.append(("agent_count", 1))
    core.agent_ids = (*agents, agent_id)[-MAX_AGENTS:]

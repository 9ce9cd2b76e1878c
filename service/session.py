"""One step of the fold: the change of a session by a callback at its place in time order.

A step depends on the session's `Core` before it and on the callback's `Facts`, and on nothing else.
The sums that it adds do not depend on other steps. So a late callback costs only the steps whose
core it changes. Pure: no I/O, no clock; all times are milliseconds of Desk's clock. The figures are
described in proto/desk/v1/session.proto.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial

import msgspec
from msgspec.structs import replace

from callback.catalogue import (
    HANDLED,
    LIVE,
    WAITING,
    Effect,
    EndReason,
    EventType,
    Field,
    Guard,
    State,
    carriers,
)
from callback.decoder import Callback
from service import machine

SessionKey = tuple[int, str]
"""SDKAppID, session id."""

AgentKey = tuple[int, str]
"""SDKAppID, id of an agent."""

MAX_AGENTS = 20
"""Agents that a session lists. Bounded because each callback is stored with its session."""

MAX_STAYS = 50
"""Stays that a session lists; bounded likewise."""


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
    """A callback's verdict, and the states before and after it in time order."""

    verdict: Verdict
    reason: Reason
    before: State
    after: State


class Facts(msgspec.Struct, frozen=True, gc=False):
    """The part of a callback that the fold needs. Histories are made from it.

    Agents are empty where the event does not carry them. All else is as in `Callback`, but empty
    where that is `UNSET`; it may be empty, too, where the fold makes no use of it.
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
    """The part of a session that later steps depend on. Callbacks share it: it is never changed.

    Attributes:
        agent_initiated: `IsContactUser` of the session's `SessionBegin`.
        agent_ids: the last `MAX_AGENTS` agents who had the session, the latest last.
        live_since: the time of the last change of the state, while the session goes on. A session
            is CLOSING or ENDED once, so that these need no time that all later steps depend on.
        handled_since: the start of the present time with agents.
        user_key, robot_key, agent_key: `MsgKey` of the side's last message.
    """

    state: State = State.NEW
    end_reason: EndReason = EndReason.UNSPECIFIED
    agent_initiated: bool = False
    agent_id: str = ""
    agent_ids: tuple[str, ...] = ()
    satisfaction: int = 0
    live_since: int | None = None
    handled_since: int | None = None
    user_key: str = ""
    robot_key: str = ""
    agent_key: str = ""
    last_user_message_at: int | None = None
    last_agent_message_at: int | None = None


class Stay(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A time, from `start` (ms) to the start of the next, without a change of state or agent."""

    state: State
    agent_id: str
    start: int


class Session(msgspec.Struct, omit_defaults=True, gc=False):
    """A session after its last callback. Fields as in desk.v1.Session; None = has not happened.

    Attributes:
        state, end_reason, agent_id, agent_ids, satisfaction, live_since, last_user_message_at,
            last_agent_message_at: as in the last `Core`.
        stays: the first of its `stay_count` stays: `MAX_STAYS`, and one that ends the last of them.
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
    answered_at: int | None = None
    first_agent_reply_at: int | None = None
    closing_at: int | None = None
    ended_at: int | None = None
    last_event_at: int | None = None
    live_since: int | None = None
    last_user_message_at: int | None = None
    last_agent_message_at: int | None = None
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
    stay_count: int = 0
    stays: tuple[Stay, ...] = ()

    @property
    def state_since(self) -> int | None:
        """Time of the last change of the state."""
        if self.state is _ENDED:
            return self.ended_at
        return self.closing_at if self.state is _CLOSING else self.live_since

    @property
    def never_answered(self) -> bool:
        """True if an agent was asked for, and none has answered."""
        return self.transfer_requested_at is not None and self.answered_at is None

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
        """Time from the first request for an agent, else from joining, to the first reply."""
        reply, asked = self.first_agent_reply_at, self.transfer_requested_at
        if reply is None:
            return None
        if asked is None or asked > reply:  # asked for only later: the agent contacted the user
            asked = self.agent_joined_at
        return None if asked is None else reply - asked


Sum = tuple[str, int]
"""A field of `Session` and the amount that is added to it."""

Step = tuple[Outcome, Core, Sequence[Sum]]
"""A callback's outcome, the core after it, and the sums that it adds."""

_FIRST_ENTERED = {
    State.CHATBOT: "begun_at",  # SessionBegin is the first to lead there
    State.TRANSFERRING: "transfer_requested_at",
    State.QUEUED: "queued_at",
    State.WITH_AGENT: "agent_joined_at",
    State.CLOSING: "closing_at",
    State.ENDED: "ended_at",
}
FIRSTS = (
    *("client_user_id", "customer_service_id", "channel_type"),
    *_FIRST_ENTERED.values(),
    "answered_at",
    "first_agent_reply_at",
)
"""Fields of `Session` that have the first value in time order that a callback offers."""

# In Python 3.11, looking a member up in its class calls a function.
_NEW, _QUEUED, _WITH_AGENT = State.NEW, State.QUEUED, State.WITH_AGENT
_CLOSING, _ENDED = State.CLOSING, State.ENDED
_ACCEPTED, _REJECTED, _UNRECOGNISED = Verdict.ACCEPTED, Verdict.REJECTED, Verdict.UNRECOGNISED
_NO_REASON = Reason.UNSPECIFIED
_WITH_AGENT_ID, _WITH_PREVIOUS_AGENT = carriers(Field.AGENT), carriers(Field.PREVIOUS_AGENT)
_REPLIES = {event for event in EventType if event.row.effect is Effect.AGENT_MESSAGE}
_REJECTION: Sequence[Sum] = (("rejected_events", 1),)


def without_message(callback: Callback, identity: bytes) -> Facts:
    """Take the fields that the fold needs: all but the message, which may be long."""
    event = callback.event
    return Facts(
        callback.event_time,
        event,
        identity,
        callback.client_user_id or "",
        callback.customer_service_id or "",
        callback.channel_type or "",
        (event in _WITH_AGENT_ID and callback.agent_id) or "",
        (event in _WITH_PREVIOUS_AGENT and callback.forward_from_agent_id) or "",
        callback.message_key or "",
        callback.is_contact_user or False,
        callback.stars or 0,
    )


def step(core: Core, facts: Facts) -> Step:
    """Apply the next callback in time order; `core` is not changed."""
    before, event = core.state, facts.event
    if event not in _EFFECTS:
        return Outcome(_UNRECOGNISED, _NO_REASON, before, before), core, ()
    outcome = accepted(core, facts)
    if outcome is None:
        return Outcome(_REJECTED, _reason(before, event), before, before), core, _REJECTION
    following = replace(core, state=outcome.after)
    sums: list[Sum] = []
    if outcome.after is not before:
        _move(following, before, facts.event_time, sums)
    if (apply := _EFFECTS[event]) is not None:
        apply(following, facts, sums)
    return outcome, following, sums


def too_long(core: Core) -> Outcome:
    """Return the outcome of a callback that a session has no room for."""
    return Outcome(_REJECTED, Reason.SESSION_TOO_LONG, core.state, core.state)


def accepted(core: Core, facts: Facts) -> Outcome | None:
    """Return the outcome of an event; None if it is impossible in the present state."""
    step = _STEPS.get((facts.event, core.state))
    if step is None:
        return None
    outcome, checks = step
    for check in checks:
        if not check(core, facts):
            return None
    return outcome


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
    if outcome.after is not outcome.before and outcome.after in _FIRST_ENTERED:
        offered.append((_FIRST_ENTERED[outcome.after], facts.event_time))
    if outcome.after is _WITH_AGENT and outcome.before in WAITING:
        offered.append(("answered_at", facts.event_time))
    if facts.event in _REPLIES and outcome.before is not _CLOSING:
        offered.append(("first_agent_reply_at", facts.event_time))
    return offered


def may_offer(session: Session, outcome: Outcome, facts: Facts) -> bool:
    """Return True if a callback may offer a value that `session` lacks. Cheaper than `offers`."""
    return (
        outcome.after is not outcome.before
        or not (session.client_user_id and session.customer_service_id and session.channel_type)
        or (facts.event in _REPLIES and session.first_agent_reply_at is None)
    )


def is_sign_of_life(outcome: Outcome) -> bool:
    """Return True if a callback counts for `last_event_at`."""
    return outcome.verdict is not _REJECTED and outcome.after is not _NEW


def explain(outcome: Outcome, event: str) -> str:
    """Return a sentence on why `event` was rejected; "" if it was not."""
    return _SENTENCES.get(outcome.reason, "").format(event=event, state=outcome.before)


_SENTENCES = {
    Reason.NOT_BEGUN: "{event} came before any SessionBegin",
    Reason.ALREADY_BEGUN: "a second SessionBegin: the session was already {state}",
    Reason.AFTER_END: "{event} came after the session had ended",
    Reason.IMPOSSIBLE_IN_STATE: "{event} is impossible while the session is {state}",
    Reason.SESSION_TOO_LONG: "{event} came when the session had used up what one session may have",
}


def _reason(state: State, event: str) -> Reason:
    if state is _NEW:
        return Reason.NOT_BEGUN
    if event == EventType.SESSION_BEGIN:
        return Reason.ALREADY_BEGUN
    return Reason.AFTER_END if state is _ENDED else Reason.IMPOSSIBLE_IN_STATE


def _move(core: Core, before: State, now: int, sums: list[Sum]) -> None:
    """Note when the state changed, and sum up the time in the queue and with agents."""
    after = core.state
    if before is _QUEUED:
        sums += (("queue_time", now - (core.live_since or now)), ("queue_stays", 1))
    if before in HANDLED and after not in HANDLED:
        sums += (("handled_time", now - (core.handled_since or now)), ("handled_stays", 1))
        core.handled_since = None
    if after in HANDLED and before not in HANDLED:
        core.handled_since = now
    core.live_since = now if after in LIVE else None


def _begin(core: Core, facts: Facts, _sums: list[Sum]) -> None:
    core.agent_initiated = facts.is_contact_user


def _count_message(total: str, last_key: str, core: Core, facts: Facts, sums: list[Sum]) -> None:
    """Count a message, unless it has the key of its side's last one: streamed, it has grown."""
    key = facts.message_key
    if not key or key != getattr(core, last_key):
        sums.append((total, 1))
    setattr(core, last_key, key)


def _write(core: Core, facts: Facts, sums: list[Sum]) -> None:
    core.last_user_message_at = facts.event_time
    _count_message("user_messages", "user_key", core, facts, sums)


def _reply(core: Core, facts: Facts, sums: list[Sum]) -> None:
    core.last_agent_message_at = facts.event_time
    _count_message("agent_messages", "agent_key", core, facts, sums)
    if core.state is not _CLOSING:  # a message that crosses with the end is no response
        _join(core, facts, sums)


def _release(core: Core, _facts: Facts, _sums: list[Sum]) -> None:
    core.agent_id = ""


def _join(core: Core, facts: Facts, sums: list[Sum]) -> None:
    if facts.agent_id:
        core.agent_id = facts.agent_id
        _remember(core, facts.agent_id, sums)


def _forward(core: Core, facts: Facts, sums: list[Sum]) -> None:
    sums.append(("forwards", 1))
    _remember(core, facts.forward_from_agent_id, sums)
    _join(core, facts, sums)


def _rate(core: Core, facts: Facts, _sums: list[Sum]) -> None:
    core.satisfaction = facts.stars or core.satisfaction


def _end(reason: EndReason, core: Core, _facts: Facts, _sums: list[Sum]) -> None:
    core.end_reason = reason


def _remember(core: Core, agent_id: str, sums: list[Sum]) -> None:
    agents = core.agent_ids
    if not agent_id or agents[-1:] == (agent_id,):
        return
    if agent_id in agents:
        agents = tuple(each for each in agents if each != agent_id)
    else:
        sums.append(("agent_count", 1))
    core.agent_ids = (*agents, agent_id)[-MAX_AGENTS:]


Apply = Callable[[Core, Facts, list[Sum]], None]
_FUNCTIONS: Mapping[Effect, Apply] = {
    Effect.BEGIN: _begin,
    Effect.USER_MESSAGE: _write,
    Effect.ROBOT_MESSAGE: partial(_count_message, "robot_messages", "robot_key"),
    Effect.AGENT_MESSAGE: _reply,
    Effect.RELEASE: _release,
    Effect.JOIN: _join,
    Effect.FORWARD: _forward,
    Effect.RATE: _rate,
}


def _function(effect: Effect | EndReason | None) -> Apply | None:
    if isinstance(effect, EndReason):
        return partial(_end, effect)
    return None if effect is None else _FUNCTIONS[effect]


_EFFECTS: dict[str, Apply | None] = {event: _function(event.row.effect) for event in EventType}

_CHECKS: Mapping[Guard, machine.Check] = {
    Guard.AGENT_CONTACTED_USER: lambda core, facts: core.agent_initiated or facts.is_contact_user,
    Guard.NO_END_REASON_YET: lambda core, _: core.end_reason is EndReason.UNSPECIFIED,
}

MACHINE = machine.build(_CHECKS)
_STEPS = {
    (event, before): (Outcome(_ACCEPTED, _NO_REASON, State(before), after), checks)
    for (event, before), (after, checks) in machine.compiled(MACHINE).items()
}
"""By event and state: the outcome, and the checks that must all pass."""

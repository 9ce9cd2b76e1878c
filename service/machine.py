"""The life of a session as one table, run by a `transitions` machine.

One row per transition, from docs/callbacks.md. Pure: no I/O, no clock; what a session remembers
besides its state is in `service.session`.
"""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import NamedTuple, Protocol, cast

from transitions import Machine


class State(StrEnum):
    """The state of a session. `NEW` is before `SessionBegin`; no API shows it as a session."""

    NEW = "NEW"
    CHATBOT = "CHATBOT"
    TRANSFERRING = "TRANSFERRING"
    QUEUED = "QUEUED"
    WITH_AGENT = "WITH_AGENT"
    FORWARDED = "FORWARDED"
    CLOSING = "CLOSING"
    ENDED = "ENDED"


class Event(StrEnum):
    """Desk's event types, spelled as Desk spells them."""

    SESSION_BEGIN = "SessionBegin"
    CHATBOT_USER_SEND_MSG = "ChatBot.UserSendMsg"
    CHATBOT_ROBOT_SEND_MSG = "ChatBot.RobotSendMsg"
    TRANSFERRING_TO_HUMAN = "TransferringToHuman"
    TRANSFERRING_TO_HUMAN_WAIT = "TransferringToHumanWait"
    NO_AGENT_ONLINE = "NoAgentOnline"
    TRANSFER_TO_HUMAN_SUCCESS = "TransferToHumanSuccess"
    AGENT_FORWARD = "AgentForward"
    HUMAN_USER_SEND_MSG = "Human.UserSendMsg"
    HUMAN_AGENT_SEND_MSG = "Human.AgentSendMsg"
    SESSION_USER_END = "SessionUserEnd"
    SESSION_AGENT_END = "SessionAgentEnd"
    SESSION_USER_TIMEOUT_END = "SessionUserTimeoutEnd"
    SESSION_AGENT_TIMEOUT_END = "SessionAgentTimeoutEnd"
    SESSION_PENDING_AUTO_FINISH_END = "SessionPendingAutoFinishEnd"
    SESSION_END = "SessionEnd"
    SATISFACTION_SELECTED = "SatisfactionSelected"


class EndReason(StrEnum):
    """Why a session ended."""

    UNSPECIFIED = "UNSPECIFIED"
    USER = "USER"
    AGENT = "AGENT"
    USER_TIMEOUT = "USER_TIMEOUT"
    AGENT_TIMEOUT = "AGENT_TIMEOUT"
    QUEUE_ABANDONED = "QUEUE_ABANDONED"


END_REASONS = {
    Event.SESSION_USER_END: EndReason.USER,
    Event.SESSION_AGENT_END: EndReason.AGENT,
    Event.SESSION_USER_TIMEOUT_END: EndReason.USER_TIMEOUT,
    Event.SESSION_AGENT_TIMEOUT_END: EndReason.AGENT_TIMEOUT,
    Event.SESSION_PENDING_AUTO_FINISH_END: EndReason.QUEUE_ABANDONED,
}
"""The five events that say why a session ends."""


class Stateful(Protocol):
    """The part of a session that the machine moves and the guards look at."""

    state: State
    end_reason: EndReason
    agent_initiated: bool


class ContactFlag(Protocol):
    """The part of a callback that the guards look at."""

    @property
    def is_contact_user(self) -> bool:
        """Return True if the agent contacted the user."""
        ...


Guard = Callable[[Stateful, ContactFlag], bool]
"""Returns True if a session may take a step by a callback."""


def agent_contacted_user(session: Stateful, callback: ContactFlag) -> bool:
    """An agent may join straight from the chatbot only if the agent contacted the user."""
    return session.agent_initiated or callback.is_contact_user


def no_end_reason_yet(session: Stateful, _callback: ContactFlag) -> bool:
    """The reason may come a moment after `SessionEnd`, once."""
    return session.end_reason is EndReason.UNSPECIFIED


class Transition(NamedTuple):
    """A row: in any of `sources`, `event` leads to `dest` (None = the same state)."""

    event: Event
    sources: tuple[State, ...]
    dest: State | None
    guard: Guard | None = None


_S, _E = State, Event
_LIVE = (_S.CHATBOT, _S.TRANSFERRING, _S.QUEUED, _S.WITH_AGENT, _S.FORWARDED)
_WITH_BOT = (_S.CHATBOT, _S.TRANSFERRING, _S.QUEUED)
_WAITING = (_S.TRANSFERRING, _S.QUEUED)
_HANDLED = (_S.WITH_AGENT, _S.FORWARDED)

TABLE: tuple[Transition, ...] = (
    Transition(_E.SESSION_BEGIN, (_S.NEW,), _S.CHATBOT),
    Transition(_E.CHATBOT_USER_SEND_MSG, _WITH_BOT, None),
    Transition(_E.CHATBOT_ROBOT_SEND_MSG, (*_WITH_BOT, _S.CLOSING), None),
    Transition(_E.TRANSFERRING_TO_HUMAN, (_S.CHATBOT, _S.FORWARDED, _S.QUEUED), _S.TRANSFERRING),
    Transition(_E.TRANSFERRING_TO_HUMAN, (_S.TRANSFERRING,), None),
    Transition(_E.TRANSFERRING_TO_HUMAN_WAIT, (*_WAITING, _S.FORWARDED), _S.QUEUED),
    Transition(_E.TRANSFER_TO_HUMAN_SUCCESS, (*_WAITING, _S.FORWARDED), _S.WITH_AGENT),
    Transition(_E.TRANSFER_TO_HUMAN_SUCCESS, (_S.CHATBOT,), _S.WITH_AGENT, agent_contacted_user),
    Transition(_E.NO_AGENT_ONLINE, _WITH_BOT, _S.CHATBOT),
    Transition(_E.HUMAN_USER_SEND_MSG, (*_WAITING, *_HANDLED), None),
    Transition(_E.HUMAN_AGENT_SEND_MSG, (_S.WITH_AGENT, _S.CLOSING), None),
    Transition(_E.HUMAN_AGENT_SEND_MSG, (_S.FORWARDED,), _S.WITH_AGENT),
    Transition(_E.AGENT_FORWARD, (_S.TRANSFERRING,), None),
    Transition(_E.AGENT_FORWARD, _HANDLED, _S.FORWARDED),
    Transition(_E.SATISFACTION_SELECTED, (*_HANDLED, _S.CLOSING, _S.ENDED), None),
    Transition(_E.SESSION_USER_END, _LIVE, _S.CLOSING),
    Transition(_E.SESSION_AGENT_END, (*_WAITING, *_HANDLED), _S.CLOSING),
    Transition(_E.SESSION_USER_TIMEOUT_END, _LIVE, _S.CLOSING),
    Transition(_E.SESSION_AGENT_TIMEOUT_END, (_S.TRANSFERRING, *_HANDLED), _S.CLOSING),
    Transition(_E.SESSION_PENDING_AUTO_FINISH_END, _WAITING, _S.CLOSING),
    *(Transition(event, (_S.ENDED,), None, no_end_reason_yet) for event in END_REASONS),
    Transition(_E.SESSION_END, (*_LIVE, _S.CLOSING), _S.ENDED),
)
"""Every possible step. What is not here is impossible."""

RANKS: dict[str, int] = {
    event: rank
    for rank, events in enumerate(
        (
            (_E.SESSION_BEGIN,),
            (_E.CHATBOT_USER_SEND_MSG, _E.CHATBOT_ROBOT_SEND_MSG),
            (_E.AGENT_FORWARD,),
            (_E.TRANSFERRING_TO_HUMAN,),
            (_E.TRANSFERRING_TO_HUMAN_WAIT,),
            (_E.NO_AGENT_ONLINE,),
            (_E.TRANSFER_TO_HUMAN_SUCCESS,),
            (_E.HUMAN_USER_SEND_MSG, _E.HUMAN_AGENT_SEND_MSG),
            tuple(END_REASONS),
            (_E.SESSION_END,),
            (_E.SATISFACTION_SELECTED,),
        )
    )
    for event in events
}
"""The order of events of the same millisecond, by Desk's spelling (decided by us)."""

RANK_OF_UNKNOWN = len(RANKS)
"""Types that we do not know come last."""

BEGIN_HEAD_START = 5_000
"""Milliseconds by which `SessionBegin` sorts earlier than it says: the user's first message is what
begins a session, and may carry the earlier time (decided by us)."""


def steps() -> Iterable[tuple[Event, State, State, str]]:
    """Yield the table pair by pair: event, source, destination, name of the guard or ""."""
    for event, sources, dest, guard in TABLE:
        for source in sources:
            yield event, source, dest or source, guard.__name__ if guard else ""


def _build() -> Machine:
    pairs = [(event, source) for event, source, _, _ in steps()]
    if len(pairs) != len(set(pairs)):
        raise AssertionError("the table has two rows for one event in one state")
    machine = Machine(
        model=None,
        states=State,
        initial=State.NEW,
        auto_transitions=False,
        queued=False,
    )
    for event, sources, dest, guard in TABLE:
        machine.add_transition(event.value, list(sources), dest or "=", conditions=guard)
    return machine


MACHINE = _build()
"""The table as a machine. To move a session: `MACHINE.events[event].trigger(session, session,
callback)`, which raises `transitions.MachineError` where the table has no step."""


def _compile(machine: Machine) -> dict[tuple[str, str], tuple[State, list[Guard]]]:
    return {
        (event, source): (
            State[str(step.dest)],
            [cast(Guard, condition.func) for condition in step.conditions],
        )
        for event in Event
        for source, [step] in machine.events[event.value].transitions.items()
    }


_STEPS = _compile(MACHINE)


def destination(session: Stateful, event: Event, callback: ContactFlag) -> State | None:
    """Return the state that `event` leads to from the session's; None if the step is impossible.

    The same as triggering `MACHINE`, from a dict made of it: that takes a tenth of the time, and
    a refold does it for every callback.
    """
    step = _STEPS.get((event, session.state))
    if step is None:
        return None
    dest, guards = step
    for guard in guards:
        if not guard(session, callback):
            return None
    return dest

"""Catalogue of Desk's event types: one row each. docs/callbacks.md gives the reasons.

Machine, fold, records, simulator and docs/states.md are made from it, so that a new event type is a
row here and a number in proto/desk/v1/event.proto. Data only: `service.session` has the functions.
"""

from dataclasses import dataclass
from enum import StrEnum, auto, unique
from typing import NamedTuple


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


class EndReason(StrEnum):
    """The reason for a session's end."""

    UNSPECIFIED = "UNSPECIFIED"
    USER = "USER"
    AGENT = "AGENT"
    USER_TIMEOUT = "USER_TIMEOUT"
    AGENT_TIMEOUT = "AGENT_TIMEOUT"
    QUEUE_ABANDONED = "QUEUE_ABANDONED"


class Guard(StrEnum):
    """A condition of a transition; docs/states.md explains each."""

    AGENT_CONTACTED_USER = auto()
    NO_END_REASON_YET = auto()


class Effect(StrEnum):
    """A change of the session beyond its state; docs/states.md explains each."""

    BEGIN = auto()
    USER_MESSAGE = auto()
    ROBOT_MESSAGE = auto()
    AGENT_MESSAGE = auto()
    RELEASE = auto()
    JOIN = auto()
    FORWARD = auto()
    RATE = auto()


class Field(StrEnum):
    """A field, as Desk spells it, that means something in some events only.

    Elsewhere Desk leaves it out or fills in a meaningless default.
    """

    AGENT = "AgentId"
    PREVIOUS_AGENT = "ForwardFromAgentId"
    MESSAGE = "MsgBody"
    STARS = "SatisfactionSelected"
    CONTACT = "IsContactUser"


class Transition(NamedTuple):
    """In any of `sources`, the event leads to `to` (None = the same state)."""

    sources: tuple[State, ...]
    to: State | None = None
    guard: Guard | None = None


@dataclass(frozen=True)
class Row:
    """One event type.

    Attributes:
        name: its spelling by Desk.
        rank: orders events of the same millisecond, the lowest first (decided by us).
        transitions: all possible ones. In any other state the event is rejected.
        effect: the change of the session beyond its state. An `EndReason` becomes the session's.
        carries: the fields that mean something.
    """

    name: str
    rank: int
    transitions: tuple[Transition, ...]
    effect: Effect | EndReason | None = None
    carries: tuple[Field, ...] = ()


_S = State
LIVE = (_S.CHATBOT, _S.TRANSFERRING, _S.QUEUED, _S.WITH_AGENT, _S.FORWARDED)
"""States of a session that is going on."""
HANDLED = (_S.WITH_AGENT, _S.FORWARDED)
"""States of a session that an agent has."""
_WITH_BOT = (_S.CHATBOT, _S.TRANSFERRING, _S.QUEUED)
WAITING = (_S.TRANSFERRING, _S.QUEUED)
"""States of a session whose user waits for an agent to join."""
_AFTER_END = Transition((_S.ENDED,), guard=Guard.NO_END_REASON_YET)


@unique
class EventType(StrEnum):
    """Desk's event types by rank. `desk.v1.EventType` numbers them as `EVENT_TYPE_<name>`."""

    row: Row

    def __new__(cls, row: Row) -> "EventType":
        """Make a member whose value is the name of its row."""
        member = str.__new__(cls, row.name)
        member._value_ = row.name
        member.row = row
        return member

    SESSION_BEGIN = Row(
        "SessionBegin",
        rank=0,
        transitions=(Transition((_S.NEW,), _S.CHATBOT),),
        effect=Effect.BEGIN,
        carries=(Field.CONTACT,),
    )
    CHATBOT_USER_SEND_MSG = Row(
        "ChatBot.UserSendMsg",
        rank=10,
        transitions=(Transition(_WITH_BOT),),
        effect=Effect.USER_MESSAGE,
        carries=(Field.MESSAGE,),
    )
    CHATBOT_ROBOT_SEND_MSG = Row(
        "ChatBot.RobotSendMsg",
        rank=10,
        transitions=(Transition((*_WITH_BOT, _S.CLOSING)),),
        effect=Effect.ROBOT_MESSAGE,
        carries=(Field.MESSAGE,),
    )
    AGENT_FORWARD = Row(
        "AgentForward",
        rank=20,
        transitions=(Transition((_S.TRANSFERRING,)), Transition(HANDLED, _S.FORWARDED)),
        effect=Effect.FORWARD,
        carries=(Field.AGENT, Field.PREVIOUS_AGENT),
    )
    TRANSFERRING_TO_HUMAN = Row(
        "TransferringToHuman",
        rank=30,
        transitions=(
            Transition((_S.CHATBOT, _S.FORWARDED, _S.QUEUED), _S.TRANSFERRING),
            Transition((_S.TRANSFERRING,)),
        ),
        effect=Effect.RELEASE,
    )
    TRANSFERRING_TO_HUMAN_WAIT = Row(
        "TransferringToHumanWait",
        rank=40,
        transitions=(Transition((*WAITING, _S.FORWARDED), _S.QUEUED),),
        effect=Effect.RELEASE,
    )
    NO_AGENT_ONLINE = Row(
        "NoAgentOnline",
        rank=50,
        transitions=(Transition(_WITH_BOT, _S.CHATBOT),),
        effect=Effect.RELEASE,
    )
    TRANSFER_TO_HUMAN_SUCCESS = Row(
        "TransferToHumanSuccess",
        rank=60,
        transitions=(
            Transition((*WAITING, _S.FORWARDED), _S.WITH_AGENT),
            Transition((_S.CHATBOT,), _S.WITH_AGENT, Guard.AGENT_CONTACTED_USER),
        ),
        effect=Effect.JOIN,
        carries=(Field.AGENT, Field.CONTACT),
    )
    HUMAN_USER_SEND_MSG = Row(
        "Human.UserSendMsg",
        rank=70,
        transitions=(Transition((*WAITING, *HANDLED)),),
        effect=Effect.USER_MESSAGE,
        carries=(Field.AGENT, Field.MESSAGE),
    )
    HUMAN_AGENT_SEND_MSG = Row(
        "Human.AgentSendMsg",
        rank=70,
        transitions=(
            Transition((_S.WITH_AGENT, _S.CLOSING)),
            Transition((_S.FORWARDED,), _S.WITH_AGENT),
        ),
        effect=Effect.AGENT_MESSAGE,
        carries=(Field.AGENT, Field.MESSAGE),
    )
    SESSION_USER_END = Row(
        "SessionUserEnd",
        rank=80,
        transitions=(Transition(LIVE, _S.CLOSING), _AFTER_END),
        effect=EndReason.USER,
    )
    SESSION_AGENT_END = Row(
        "SessionAgentEnd",
        rank=80,
        transitions=(Transition((*WAITING, *HANDLED), _S.CLOSING), _AFTER_END),
        effect=EndReason.AGENT,
        carries=(Field.AGENT,),
    )
    SESSION_USER_TIMEOUT_END = Row(
        "SessionUserTimeoutEnd",
        rank=80,
        transitions=(Transition(LIVE, _S.CLOSING), _AFTER_END),
        effect=EndReason.USER_TIMEOUT,
    )
    SESSION_AGENT_TIMEOUT_END = Row(
        "SessionAgentTimeoutEnd",
        rank=80,
        transitions=(Transition((_S.TRANSFERRING, *HANDLED), _S.CLOSING), _AFTER_END),
        effect=EndReason.AGENT_TIMEOUT,
        carries=(Field.AGENT,),
    )
    SESSION_PENDING_AUTO_FINISH_END = Row(
        "SessionPendingAutoFinishEnd",
        rank=80,
        transitions=(Transition(WAITING, _S.CLOSING), _AFTER_END),
        effect=EndReason.QUEUE_ABANDONED,
    )
    SESSION_END = Row(
        "SessionEnd", rank=90, transitions=(Transition((*LIVE, _S.CLOSING), _S.ENDED),)
    )
    SATISFACTION_SELECTED = Row(
        "SatisfactionSelected",
        rank=100,
        transitions=(Transition((*HANDLED, _S.CLOSING, _S.ENDED)),),
        effect=Effect.RATE,
        carries=(Field.AGENT, Field.STARS),
    )


RANKS: dict[str, int] = {event: event.row.rank for event in EventType}

RANK_OF_UNKNOWN = 1_000
"""Types that we do not know come last."""

BEGIN_HEAD_START = 5_000
"""Milliseconds by which `SessionBegin` sorts earlier than it says: the user's first message is what
begins a session, and may carry the earlier time (decided by us)."""


def carriers(field: Field) -> frozenset[str]:
    """Return the event types in which a field means something."""
    return frozenset(event for event in EventType if field in event.row.carries)

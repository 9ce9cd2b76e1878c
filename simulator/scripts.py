"""Scripts of sessions' lives, step by step, each step with the state that it leads to.

Written by hand from docs/callbacks.md, independently of the service's transition table, so that
each can be checked against the other.
"""

from typing import NamedTuple

NEW = "NEW"
CHATBOT = "CHATBOT"
TRANSFERRING = "TRANSFERRING"
QUEUED = "QUEUED"
WITH_AGENT = "WITH_AGENT"
FORWARDED = "FORWARDED"
CLOSING = "CLOSING"
ENDED = "ENDED"

NOT_BEGUN = "NOT_BEGUN"
ALREADY_BEGUN = "ALREADY_BEGUN"
AFTER_END = "AFTER_END"
IMPOSSIBLE_IN_STATE = "IMPOSSIBLE_IN_STATE"
MALFORMED = "MALFORMED"


class Step(NamedTuple):
    """One event of a life.

    Attributes:
        event: as Desk spells it.
        to: the state that it leads to; None = the same state.
        gap: seconds since the event before, least and most.
        optional: in half of the lives it does not take place.
        contact: the agent contacted the user.
        again: it changes the message before it from the same side.
    """

    event: str
    to: str | None = None
    gap: tuple[float, float] = (1, 15)
    optional: bool = False
    contact: bool = False
    again: bool = False


BEGIN = Step("SessionBegin", CHATBOT)
ASK = Step("ChatBot.UserSendMsg")
ANSWER = Step("ChatBot.RobotSendMsg", gap=(0.4, 2))
ANSWER_GROWS = Step("ChatBot.RobotSendMsg", gap=(0.1, 0.4), again=True)
ASK_MORE, ANSWER_MORE = ASK._replace(optional=True), ANSWER._replace(optional=True)
TRANSFER = Step("TransferringToHuman", TRANSFERRING)
LINE_UP = Step("TransferringToHumanWait", QUEUED, gap=(0.1, 1))
STILL_WAITING = Step("TransferringToHumanWait", gap=(10, 40), optional=True)
NOBODY = Step("NoAgentOnline", CHATBOT, gap=(0.1, 1))
JOIN = Step("TransferToHumanSuccess", WITH_AGENT, gap=(2, 60))
SAY = Step("Human.UserSendMsg")
REPLY = Step("Human.AgentSendMsg")
SAY_MORE, REPLY_MORE = SAY._replace(optional=True), REPLY._replace(optional=True)
FORWARD = Step("AgentForward", FORWARDED)
TAKE_OVER = Step("Human.AgentSendMsg", WITH_AGENT)
CONFIRM = Step("TransferToHumanSuccess", WITH_AGENT)
RATE = Step("SatisfactionSelected")
END = Step("SessionEnd", ENDED, gap=(0.1, 1))
USER_ENDS = Step("SessionUserEnd", CLOSING)
AGENT_ENDS = Step("SessionAgentEnd", CLOSING)
USER_TIMES_OUT = Step("SessionUserTimeoutEnd", CLOSING, gap=(30, 90))
AGENT_TIMES_OUT = Step("SessionAgentTimeoutEnd", CLOSING, gap=(30, 90))
LEFT_THE_LINE = Step("SessionPendingAutoFinishEnd", CLOSING, gap=(20, 60))

_BOT = (BEGIN, ASK, ANSWER, ASK_MORE, ANSWER_MORE, ASK_MORE, ANSWER_MORE)
_IN_LINE = (*_BOT, TRANSFER, LINE_UP, STILL_WAITING, ASK_MORE, ANSWER_MORE)
_TALK = (REPLY, SAY, REPLY_MORE, SAY_MORE, SAY_MORE, REPLY_MORE)
_CROSSING = Step("Human.AgentSendMsg", gap=(0.1, 0.5))
_GOODBYE = _CROSSING._replace(optional=True)

SCRIPTS: dict[str, tuple[Step, ...]] = {
    "bot only, user times out": (*_BOT, USER_TIMES_OUT, END),
    "bot only, user ends": (*_BOT, USER_ENDS, ANSWER_MORE, END),
    "bot only, no reason given": (*_BOT, END),
    "bot streams its answers": (BEGIN, ASK, ANSWER, ANSWER_GROWS, ANSWER_GROWS, ASK, ANSWER,
                                ANSWER_GROWS, ANSWER, USER_ENDS, END),
    "message first": (
        BEGIN._replace(gap=(0, 0)),
        ASK._replace(gap=(-3, -0.5)),
        ANSWER._replace(gap=(4, 5)),
        USER_ENDS,
        END,
    ),
    "straight to an agent": (*_BOT, TRANSFER, JOIN, *_TALK, AGENT_ENDS, _GOODBYE, RATE, END),
    "queue, then an agent": (*_IN_LINE, JOIN, *_TALK, USER_ENDS, END, RATE._replace(gap=(10, 60))),
    "queue, rated twice": (*_IN_LINE, JOIN, *_TALK, RATE, AGENT_ENDS, END, RATE),
    "queue abandoned": (*_IN_LINE, USER_ENDS, END),
    "queue abandoned as an agent comes": (*_IN_LINE, USER_ENDS, _CROSSING, END),
    "queue ended by Desk": (*_IN_LINE, AGENT_ENDS, END),
    "queue closed, user offline": (*_IN_LINE, LEFT_THE_LINE, END),
    "no agent online": (*_BOT, TRANSFER, NOBODY, ANSWER, ASK_MORE, USER_TIMES_OUT, END),
    "no agent, asked again": (*_BOT, TRANSFER, LINE_UP, NOBODY, ASK, TRANSFER, JOIN, *_TALK,
                              USER_ENDS, END),
    "forwarded, taken over": (*_IN_LINE, JOIN, *_TALK, FORWARD, SAY_MORE, TAKE_OVER, *_TALK,
                              AGENT_ENDS, END, RATE),
    "forwarded twice": (*_BOT, TRANSFER, JOIN, REPLY, FORWARD, CONFIRM, REPLY, FORWARD, TAKE_OVER,
                        SAY, USER_ENDS, END),
    "user times out": (*_IN_LINE, JOIN, *_TALK, USER_TIMES_OUT, END),
    "agent times out": (*_BOT, TRANSFER, JOIN, SAY, AGENT_TIMES_OUT, END),
    "another is asked": (*_IN_LINE, TRANSFER, TRANSFER, JOIN, *_TALK, USER_ENDS, END),
    "nobody takes it": (*_BOT, TRANSFER, SAY, AGENT_TIMES_OUT, END),
    "agent contacts the user": (
        BEGIN._replace(contact=True), JOIN, REPLY, SAY, *_TALK, AGENT_ENDS, END,
    ),
    "agent joins a bot session": (
        *_BOT, JOIN._replace(contact=True), REPLY, SAY_MORE, AGENT_ENDS, END,
    ),
    "reason after the end": (*_BOT, END, USER_TIMES_OUT._replace(to=None, gap=(0.1, 2))),
}  # fmt: skip
"""All scripts, by name. In "message first", the first message is earlier than `SessionBegin`, which
counts as 5 s older than it says."""

END_REASONS = {
    "SessionUserEnd": "USER",
    "SessionAgentEnd": "AGENT",
    "SessionUserTimeoutEnd": "USER_TIMEOUT",
    "SessionAgentTimeoutEnd": "AGENT_TIMEOUT",
    "SessionPendingAutoFinishEnd": "QUEUE_ABANDONED",
}

IMPOSSIBLE: dict[str, tuple[str, ...]] = {
    CHATBOT: ("Human.AgentSendMsg", "Human.UserSendMsg", "AgentForward", "SatisfactionSelected",
              "SessionAgentEnd", "SessionAgentTimeoutEnd", "SessionPendingAutoFinishEnd",
              "TransferringToHumanWait"),
    TRANSFERRING: ("Human.AgentSendMsg", "SatisfactionSelected"),
    QUEUED: ("Human.AgentSendMsg", "AgentForward", "SessionAgentTimeoutEnd",
             "SatisfactionSelected"),
    WITH_AGENT: ("ChatBot.UserSendMsg", "ChatBot.RobotSendMsg", "TransferringToHuman",
                 "TransferringToHumanWait", "TransferToHumanSuccess", "NoAgentOnline",
                 "SessionPendingAutoFinishEnd"),
    FORWARDED: ("ChatBot.UserSendMsg", "ChatBot.RobotSendMsg", "NoAgentOnline",
                "SessionPendingAutoFinishEnd"),
    CLOSING: ("ChatBot.UserSendMsg", "Human.UserSendMsg", "TransferringToHuman", "AgentForward",
              "TransferToHumanSuccess", "SessionUserEnd", "SessionAgentEnd"),
    ENDED: ("ChatBot.UserSendMsg", "ChatBot.RobotSendMsg", "Human.UserSendMsg",
            "Human.AgentSendMsg", "TransferringToHuman", "TransferringToHumanWait",
            "TransferToHumanSuccess", "NoAgentOnline", "AgentForward", "SessionEnd"),
}  # fmt: skip
"""Events that are impossible, by state. In addition, only `SessionBegin` may come first, and only
once."""

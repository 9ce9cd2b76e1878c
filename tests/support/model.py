"""The rules of a session, told a second time, plainly and slowly, from docs/callbacks.md.

Shares nothing with the code under test: what both say is right by agreement, not by birth.
"""

from collections.abc import Callable
from typing import Any

LIVE = "CHATBOT TRANSFERRING QUEUED WITH_AGENT FORWARDED"
DECIDED = f"""
SessionBegin                | NEW                                        | CHATBOT
ChatBot.UserSendMsg         | CHATBOT TRANSFERRING QUEUED                | same
ChatBot.RobotSendMsg        | CHATBOT TRANSFERRING QUEUED CLOSING        | same
TransferringToHuman         | CHATBOT FORWARDED                          | TRANSFERRING
TransferringToHumanWait     | TRANSFERRING FORWARDED QUEUED              | QUEUED
TransferToHumanSuccess      | TRANSFERRING QUEUED FORWARDED              | WITH_AGENT
NoAgentOnline               | CHATBOT TRANSFERRING QUEUED                | CHATBOT
Human.UserSendMsg           | TRANSFERRING QUEUED WITH_AGENT FORWARDED   | same
Human.AgentSendMsg          | WITH_AGENT CLOSING                         | same
Human.AgentSendMsg          | FORWARDED                                  | WITH_AGENT
AgentForward                | TRANSFERRING                               | same
AgentForward                | WITH_AGENT FORWARDED                       | FORWARDED
SatisfactionSelected        | WITH_AGENT FORWARDED CLOSING ENDED         | same
SessionUserEnd              | {LIVE}                                     | CLOSING
SessionAgentEnd             | WITH_AGENT FORWARDED                       | CLOSING
SessionUserTimeoutEnd       | {LIVE}                                     | CLOSING
SessionAgentTimeoutEnd      | TRANSFERRING WITH_AGENT FORWARDED          | CLOSING
SessionPendingAutoFinishEnd | TRANSFERRING QUEUED                        | CLOSING
SessionEnd                  | {LIVE} CLOSING                             | ENDED
SessionUserEnd              | ENDED                                      | same
SessionAgentEnd             | ENDED                                      | same
SessionUserTimeoutEnd       | ENDED                                      | same
SessionAgentTimeoutEnd      | ENDED                                      | same
SessionPendingAutoFinishEnd | ENDED                                      | same
"""


def decided() -> dict[tuple[str, str], str]:
    table = {}
    for line in DECIDED.strip().splitlines():
        event, sources, dest = (cell.strip() for cell in line.split("|"))
        for source in sources.split():
            table[event, source] = source if dest == "same" else dest
    return table


CONTACT_NEEDED = ("TransferToHumanSuccess", "CHATBOT")

END_REASONS = {
    "SessionUserEnd": "USER",
    "SessionAgentEnd": "AGENT",
    "SessionUserTimeoutEnd": "USER_TIMEOUT",
    "SessionAgentTimeoutEnd": "AGENT_TIMEOUT",
    "SessionPendingAutoFinishEnd": "QUEUE_ABANDONED",
}

ORDER = [
    {"SessionBegin"},
    {"ChatBot.UserSendMsg", "ChatBot.RobotSendMsg"},
    {"TransferringToHuman"},
    {"TransferringToHumanWait"},
    {"NoAgentOnline"},
    {"TransferToHumanSuccess"},
    {"AgentForward"},
    {"Human.UserSendMsg", "Human.AgentSendMsg"},
    set(END_REASONS),
    {"SessionEnd"},
    {"SatisfactionSelected"},
]

Story = list[tuple[dict[str, Any], str, str]]
"""The accepted callbacks in time order, each with the states before and after it."""


def in_time_order(callbacks: dict[bytes, dict[str, Any]]) -> list[tuple[bytes, dict[str, Any]]]:
    def place(item: tuple[bytes, dict[str, Any]]) -> tuple[int, int, bytes]:
        identity, document = item
        event, time = document["Event"], document["EventTime"]
        rank = next((rank for rank, events in enumerate(ORDER) if event in events), len(ORDER))
        return (time - 5000 if event == "SessionBegin" else time), rank, identity

    return sorted(callbacks.items(), key=place)


def judge(callbacks: dict[bytes, dict[str, Any]]) -> tuple[dict[bytes, tuple[str, str]], Story]:
    """Each callback's verdict and reason by its id, and the story of the accepted ones."""
    table, known = decided(), set().union(*ORDER)
    state, contacted, end_reason = "NEW", False, ""
    verdicts: dict[bytes, tuple[str, str]] = {}
    story: Story = []
    for identity, document in in_time_order(callbacks):
        event = document["Event"]
        if event not in known:
            verdicts[identity] = ("UNRECOGNISED", "UNSPECIFIED")
            continue
        after = table.get((event, state))
        if (event, state) == CONTACT_NEEDED and (contacted or document["IsContactUser"] is True):
            after = "WITH_AGENT"
        if state == "ENDED" and event in END_REASONS and end_reason:
            after = None
        if after is None:
            verdicts[identity] = ("REJECTED", why_not(event, state))
            continue
        verdicts[identity] = ("ACCEPTED", "UNSPECIFIED")
        story.append((document, state, after))
        contacted = contacted or (event == "SessionBegin" and document["IsContactUser"] is True)
        end_reason = END_REASONS.get(event, end_reason)
        state = after
    return verdicts, story


def why_not(event: str, state: str) -> str:
    if state == "NEW":
        return "NOT_BEGUN"
    if event == "SessionBegin":
        return "ALREADY_BEGUN"
    return "AFTER_END" if state == "ENDED" else "IMPOSSIBLE_IN_STATE"


def figures(story: Story) -> dict[str, Any]:
    """What a session's story says of it, as far as desk.v1.Session has it."""
    ratings = [
        document["SatisfactionSelected"]
        for document, *_ in story
        if document["Event"] == "SatisfactionSelected"
        and document["SatisfactionSelected"] in (1, 2, 3, 4, 5)
    ]
    reply = first(story, lambda event, *_: event == "Human.AgentSendMsg")
    asked = entered(story, "TRANSFERRING")
    joined = entered(story, "WITH_AGENT")
    since = asked if asked is not None and reply is not None and asked <= reply else joined
    return {
        "state": story[-1][2] if story else "NEW",
        "end_reason": next(
            (END_REASONS[doc["Event"]] for doc, *_ in story if doc["Event"] in END_REASONS),
            "UNSPECIFIED",
        ),
        "begun_at": first(story, lambda event, *_: event == "SessionBegin"),
        "transfer_requested_at": asked,
        "queued_at": entered(story, "QUEUED"),
        "agent_joined_at": joined,
        "first_agent_reply_at": reply,
        "closing_at": entered(story, "CLOSING"),
        "ended_at": entered(story, "ENDED"),
        "queue_wait": stays(story, {"QUEUED"}),
        "handle_time": stays(story, {"WITH_AGENT", "FORWARDED"}),
        "first_response": None if reply is None or since is None else reply - since,
        "user_messages": count(story, "ChatBot.UserSendMsg", "Human.UserSendMsg"),
        "robot_messages": count(story, "ChatBot.RobotSendMsg"),
        "agent_messages": count(story, "Human.AgentSendMsg"),
        "forwards": count(story, "AgentForward"),
        "satisfaction": ratings[-1] if ratings else 0,
    }


def first(story: Story, wanted: Callable[[str, str, str], bool]) -> int | None:
    times = (
        document["EventTime"]
        for document, before, after in story
        if wanted(document["Event"], before, after)
    )
    return next(times, None)


def entered(story: Story, state: str) -> int | None:
    return first(story, lambda _event, before, after: after == state != before)


def stays(story: Story, states: set[str]) -> int | None:
    total, since = None, 0
    for document, before, after in story:
        if after in states and before not in states:
            since = document["EventTime"]
        if before in states and after not in states:
            total = (total or 0) + document["EventTime"] - since
    return total


def count(story: Story, *events: str) -> int:
    return sum(document["Event"] in events for document, *_ in story)

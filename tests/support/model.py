"""The rules of a session, written a second time from docs/callbacks.md, simple and slow.

Independent of the code under test, and of the catalogue: a mistake in one shows as a difference.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from journal.entry import Entry

LIVE = "CHATBOT TRANSFERRING QUEUED WITH_AGENT FORWARDED"
DECIDED = f"""
SessionBegin                | NEW                                        | CHATBOT
ChatBot.UserSendMsg         | CHATBOT TRANSFERRING QUEUED                | same
ChatBot.RobotSendMsg        | CHATBOT TRANSFERRING QUEUED CLOSING        | same
TransferringToHuman         | CHATBOT FORWARDED QUEUED                   | TRANSFERRING
TransferringToHuman         | TRANSFERRING                               | same
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
SessionAgentEnd             | TRANSFERRING QUEUED WITH_AGENT FORWARDED   | CLOSING
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


TABLE = decided()

USER_MESSAGES = "ChatBot.UserSendMsg", "Human.UserSendMsg"

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
    {"AgentForward"},
    {"TransferringToHuman"},
    {"TransferringToHumanWait"},
    {"NoAgentOnline"},
    {"TransferToHumanSuccess"},
    {"Human.UserSendMsg", "Human.AgentSendMsg"},
    set(END_REASONS),
    {"SessionEnd"},
    {"SatisfactionSelected"},
]

YEAR_2015 = 1_420_070_400_000
DAY = 24 * 60 * 60 * 1000
NAME_BYTES = 256
AGENTS = 20
STAYS = 50

Document = dict[str, Any]
Outcome = tuple[str, str]
"""Verdict and reason."""

ACCEPTED, UNRECOGNISED = ("ACCEPTED", "UNSPECIFIED"), ("UNRECOGNISED", "UNSPECIFIED")
MALFORMED, TOO_LONG = ("REJECTED", "MALFORMED"), ("REJECTED", "SESSION_TOO_LONG")


class Step(NamedTuple):
    """One callback in time order: its outcome, and the states before and after it."""

    document: Document
    outcome: Outcome
    before: str
    after: str

    @property
    def event(self) -> str:
        name: str = self.document["Event"]
        return name


Steps = list[Step]


class Record(NamedTuple):
    """One published verdict; it has no states if the callback has no place in time order."""

    revision: int
    ordinal: int
    event_revision: int
    outcome: Outcome
    before: str
    after: str
    session_state: str


class Content(NamedTuple):
    """The whole content of a view of a journal."""

    feed: list[Record]
    snapshots: dict[int, dict[str, Any]]
    """By revision, the session of the callback, if it has begun."""
    sessions: dict[str, dict[str, Any]]


class Arrivals:
    """A session's callbacks so far, by id, and the used part of its limits."""

    def __init__(self) -> None:
        self.documents: dict[bytes, Document] = {}
        self.revisions: dict[bytes, int] = {}
        self.revised = 0
        self.too_long = 0

    def fold(self) -> dict[bytes, Step]:
        return fold(self.documents)


def content_of(entries: list[Entry], *, callbacks: int, revised: int) -> Content:
    """Return the content of a view of these entries, with these limits for each session."""
    expected = Content([], {}, {})
    sessions: dict[str, Arrivals] = {}
    seen: set[bytes] = set()
    for entry in entries:
        if entry.id in seen:
            continue
        seen.add(entry.id)
        document = readable(entry)
        if document is None:
            expected.feed.append(
                Record(entry.revision, 0, entry.revision, MALFORMED, "NEW", "NEW", "NEW")
            )
            continue
        session_id = document["SessionId"]
        arrivals = sessions.setdefault(session_id, Arrivals())
        full = len(arrivals.documents) >= callbacks or arrivals.revised >= revised
        expected.feed.extend(refuse(arrivals, entry) if full else take(arrivals, entry, document))
        shown = figures(list(arrivals.fold().values()), arrivals.too_long)
        if shown["state"] != "NEW":
            expected.snapshots[entry.revision] = shown
            expected.sessions[session_id] = shown
    return expected


def refuse(arrivals: Arrivals, entry: Entry) -> list[Record]:
    arrivals.too_long += 1
    state = state_of(list(arrivals.fold().values()))
    return [Record(entry.revision, 0, entry.revision, TOO_LONG, "", "", state)]


def take(arrivals: Arrivals, entry: Entry, document: Document) -> list[Record]:
    before = arrivals.fold()
    arrivals.documents[entry.id] = document
    arrivals.revisions[entry.id] = entry.revision
    after = arrivals.fold()
    changed = [each for each in before if before[each].outcome != after[each].outcome]
    in_order = [entry.id, *(each for each in after if each in changed)]
    arrivals.revised += len(changed)
    state = state_of(list(after.values()))
    return [
        Record(entry.revision, ordinal, arrivals.revisions[each], *after[each][1:], state)
        for ordinal, each in enumerate(in_order)
    ]


def readable(entry: Entry) -> Document | None:
    """Return a callback's fields; None if it is malformed. test_decoder.py has all kinds."""
    try:
        document = json.loads(entry.body)
    except ValueError:
        return None
    names = (document["SessionId"], document["Event"])
    plausible = YEAR_2015 <= document["EventTime"] <= entry.received_at + DAY
    return document if plausible and not any(map(LONE_SURROGATE.search, names)) else None


LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def name(document: Document, field: str) -> str:
    """Return a text as it is shown: empty if it is no text or too long."""
    value = document.get(field)
    shown = LONE_SURROGATE.sub("\ufffd", value) if type(value) is str else ""
    return shown if len(shown.encode()) <= NAME_BYTES else ""


def in_time_order(callbacks: dict[bytes, Document]) -> list[tuple[bytes, Document]]:
    def place(item: tuple[bytes, Document]) -> tuple[int, int, bytes]:
        identity, document = item
        event, time = document["Event"], document["EventTime"]
        rank = next((rank for rank, events in enumerate(ORDER) if event in events), len(ORDER))
        return (time - 5000 if event == "SessionBegin" else time), rank, identity

    return sorted(callbacks.items(), key=place)


def fold(callbacks: dict[bytes, Document]) -> dict[bytes, Step]:
    """Apply a session's callbacks to the table once, in time order."""
    state, contacted, end_reason = "NEW", False, ""
    steps: dict[bytes, Step] = {}
    for identity, document in in_time_order(callbacks):
        event = document["Event"]
        after = allowed(document, state, contacted, end_reason)
        if after is None:
            steps[identity] = Step(document, why_not(event, state), state, state)
            continue
        contacted = contacted or (event == "SessionBegin" and document["IsContactUser"] is True)
        end_reason = END_REASONS.get(event, end_reason)
        steps[identity] = Step(document, ACCEPTED, state, after)
        state = after
    return steps


def allowed(document: Document, state: str, contacted: bool, end_reason: str) -> str | None:
    event = document["Event"]
    if state == "ENDED" and event in END_REASONS and end_reason:
        return None
    if (event, state) == CONTACT_NEEDED and (contacted or document["IsContactUser"] is True):
        return "WITH_AGENT"
    return TABLE.get((event, state))


def why_not(event: str, state: str) -> Outcome:
    if not any(event in events for events in ORDER):
        return UNRECOGNISED
    if state == "NEW":
        return "REJECTED", "NOT_BEGUN"
    if event == "SessionBegin":
        return "REJECTED", "ALREADY_BEGUN"
    return "REJECTED", "AFTER_END" if state == "ENDED" else "IMPOSSIBLE_IN_STATE"


def state_of(steps: Steps) -> str:
    return steps[-1].after if steps else "NEW"


def figures(steps: Steps, too_long: int) -> dict[str, Any]:
    """Return the fields of desk.v1.Session by name, without key and revision."""
    accepted = [step for step in steps if step.outcome == ACCEPTED]
    times = [s.document["EventTime"] for s in steps if s.outcome in (ACCEPTED, UNRECOGNISED)]
    reply = first(accepted, lambda step: step.event == "Human.AgentSendMsg" and in_session(step))
    asked = entered(accepted, "TRANSFERRING")
    joined = entered(accepted, "WITH_AGENT")
    since = asked if asked is not None and reply is not None and asked <= reply else joined
    reasons = (END_REASONS[step.event] for step in accepted if step.event in END_REASONS)
    return {
        "state": state_of(steps),
        "end_reason": next(reasons, "UNSPECIFIED"),
        "client_user_id": first_named(accepted, "ClientUserId"),
        "customer_service_id": first_named(accepted, "CustomerServiceId"),
        "channel_type": first_named(accepted, "ChannelType"),
        "begun_at": first(accepted, lambda step: step.event == "SessionBegin"),
        "transfer_requested_at": asked,
        "queued_at": entered(accepted, "QUEUED"),
        "agent_joined_at": joined,
        "first_agent_reply_at": reply,
        "closing_at": entered(accepted, "CLOSING"),
        "ended_at": entered(accepted, "ENDED"),
        "last_event_at": max(times, default=None),
        "state_since": last(accepted, lambda step: step.before != step.after),
        "answered_at": first(accepted, is_answer),
        "last_user_message_at": last(accepted, lambda step: step.event in USER_MESSAGES),
        "last_agent_message_at": last(accepted, lambda step: step.event == "Human.AgentSendMsg"),
        "queue_wait": time_in(accepted, {"QUEUED"}),
        "handle_time": time_in(accepted, {"WITH_AGENT", "FORWARDED"}),
        "first_response": None if reply is None or since is None else reply - since,
        "user_messages": messages(accepted, *USER_MESSAGES),
        "robot_messages": messages(accepted, "ChatBot.RobotSendMsg"),
        "agent_messages": messages(accepted, "Human.AgentSendMsg"),
        "forwards": sum(step.event == "AgentForward" for step in accepted),
        "rejected_events": sum(s.outcome[0] == "REJECTED" for s in steps) + too_long,
        "satisfaction": rating(accepted),
        **agents(accepted),
        **stays(accepted),
    }


def in_session(step: Step) -> bool:
    """Return False if the session was CLOSING: a message is no response then."""
    return step.before != "CLOSING"


def first(accepted: Steps, wanted: Callable[[Step], bool]) -> int | None:
    return next((step.document["EventTime"] for step in accepted if wanted(step)), None)


def last(accepted: Steps, wanted: Callable[[Step], bool]) -> int | None:
    return first(accepted[::-1], wanted)


def is_answer(step: Step) -> bool:
    return step.after == "WITH_AGENT" and step.before in ("TRANSFERRING", "QUEUED")


def entered(accepted: Steps, state: str) -> int | None:
    return first(accepted, lambda step: step.after == state != step.before)


def first_named(accepted: Steps, field: str) -> str:
    return next(filter(None, (name(step.document, field) for step in accepted)), "")


def stays(accepted: Steps) -> dict[str, Any]:
    """Return the first stays and their number; a stay has one state and one agent."""
    starts: list[tuple[str, str, int]] = []
    for step, agent in zip(accepted, present_agents(accepted), strict=True):
        if [(step.after, agent)] != [stay[:2] for stay in starts[-1:]]:
            starts.append((step.after, agent, step.document["EventTime"]))
    ends = [*(time for _, _, time in starts), None][1:]
    listed = [
        (state, agent, start if end is None else min(start, end), end)
        for (state, agent, start), end in zip(starts, ends, strict=True)
    ]
    return {"stays": listed[:STAYS], "stay_count": len(listed)}


def time_in(accepted: Steps, states: set[str]) -> int | None:
    total, since = None, 0
    for document, _, before, after in accepted:
        if after in states and before not in states:
            since = document["EventTime"]
        if before in states and after not in states:
            total = (total or 0) + document["EventTime"] - since
    return total


def messages(accepted: Steps, *events: str) -> int:
    """Count the messages of one side. A message reported again with its key counts once."""
    keys = [name(step.document, "MsgKey") for step in accepted if step.event in events]
    return sum(not key or key != before for before, key in zip(["", *keys], keys, strict=False))


def rating(accepted: Steps) -> int:
    given = [
        s.document["SatisfactionSelected"] for s in accepted if s.event == "SatisfactionSelected"
    ]
    return next((stars for stars in reversed(given) if stars in (1, 2, 3, 4, 5)), 0)


def agents(accepted: Steps) -> dict[str, Any]:
    """Return the present agent, the last agents, and the number of agents."""
    remembered, count = list[str](), 0
    for step in accepted:
        for agent in named(step):
            count += agent not in remembered
            remembered = [*(each for each in remembered if each != agent), agent][-AGENTS:]
    *_, current = ("", *present_agents(accepted))
    return {"agent_id": current, "agent_ids": remembered, "agent_count": count}


def present_agents(accepted: Steps) -> Iterator[str]:
    """Yield the present agent after each step."""
    current = ""
    for step in accepted:
        if step.event in ("TransferringToHuman", "TransferringToHumanWait", "NoAgentOnline"):
            current = ""
        if named(step) and name(step.document, "AgentId"):
            current = name(step.document, "AgentId")
        yield current


def named(step: Step) -> list[str]:
    """List the agents who, by a callback, have the session or handed it over."""
    if step.event == "AgentForward":
        fields = ["ForwardFromAgentId", "AgentId"]
    elif step.event == "TransferToHumanSuccess" or (
        step.event == "Human.AgentSendMsg" and in_session(step)
    ):
        fields = ["AgentId"]
    else:
        fields = []
    return [agent for field in fields if (agent := name(step.document, field))]

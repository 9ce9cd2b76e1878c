"""Computes the session that is expected at the end of a life.

Written from the comments in proto/desk/v1/session.proto, independently of the service's fold.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Protocol, TypeVar

import msgspec

from simulator.scripts import (
    CHATBOT,
    CLOSING,
    END_REASONS,
    ENDED,
    FORWARDED,
    QUEUED,
    TRANSFERRING,
    WITH_AGENT,
)

MOST_AGENTS = 20
"""Agents that a session lists."""

USER_MESSAGES = "ChatBot.UserSendMsg", "Human.UserSendMsg"
AGENT_MESSAGE = "Human.AgentSendMsg"
TAKES = "TransferToHumanSuccess", "AgentForward", AGENT_MESSAGE

Value = TypeVar("Value")


class Happened(Protocol):
    """The fields of an event that expectations depend on."""

    @property
    def event(self) -> str: ...
    @property
    def at(self) -> int: ...
    @property
    def after(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def agent(self) -> str: ...
    @property
    def previous_agent(self) -> str: ...
    @property
    def stars(self) -> int: ...
    @property
    def again(self) -> bool: ...


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """A session, field by field as in desk.v1.Session.

    States and reasons without their prefix; times and durations in ms, None = unset.
    """

    state: str
    end_reason: str
    client_user_id: str
    customer_service_id: str
    channel_type: str
    agent_id: str
    agent_ids: tuple[str, ...]
    satisfaction: int
    user_messages: int
    robot_messages: int
    agent_messages: int
    forwards: int
    rejected_events: int
    begun_at: int
    transfer_requested_at: int | None
    queued_at: int | None
    agent_joined_at: int | None
    answered_at: int | None
    first_agent_reply_at: int | None
    closing_at: int | None
    ended_at: int | None
    last_event_at: int
    state_since: int
    last_user_message_at: int | None
    last_agent_message_at: int | None
    queue_wait: int | None
    first_response: int | None
    handle_time: int | None


class Stayed(msgspec.Struct, frozen=True, gc=False):
    """A part of a session's time without a change of state or agent; `end` is None if it lasts."""

    state: str
    agent: str
    start: int
    end: int | None


def stays_of(life: Sequence[Happened]) -> tuple[Stayed, ...]:
    """Return all stays of a life, as described at desk.v1.Stay."""
    starts: list[tuple[str, str, int]] = []
    state = agent = ""
    for each in life:
        if each.reason:
            continue
        before = state, agent
        if each.event in TAKES and each.after != CLOSING:
            agent = each.agent or agent
        elif each.after != state and each.after in (CHATBOT, TRANSFERRING, QUEUED):
            agent = ""
        state = each.after
        if (state, agent) != before:
            starts.append((state, agent, each.at))
    ends = [*(start for _, _, start in starts), None][1:]
    return tuple(
        Stayed(state, agent, start if end is None else min(start, end), end)
        for (state, agent, start), end in zip(starts, ends, strict=True)
    )


def expect(life: Sequence[Happened], *, customer: tuple[str, str, str]) -> Expectation:
    """Return the session that is expected after a life.

    Args:
        life: its events in time order; those with a reason must be rejected.
        customer: `client_user_id`, `customer_service_id` and `channel_type`.
    """
    accepted = [event for event in life if not event.reason]
    count = Counter(event.event for event in accepted if not event.again)
    agents = _agents(accepted)
    asked, joined = _entered(accepted, TRANSFERRING), _entered(accepted, WITH_AGENT)
    replies = (e.at for e in accepted if e.event == AGENT_MESSAGE and e.after != CLOSING)
    replied = next(replies, None)
    since = joined if asked is None else asked
    return Expectation(
        state=accepted[-1].after,
        end_reason=_last((END_REASONS[e.event] for e in accepted if e.event in END_REASONS), ""),
        client_user_id=customer[0],
        customer_service_id=customer[1],
        channel_type=customer[2],
        agent_id="" if _last_live(accepted) in (CHATBOT, TRANSFERRING, QUEUED) else agents[-1],
        agent_ids=_last_agents(agents),
        satisfaction=_last((e.stars for e in accepted if e.event == "SatisfactionSelected"), 0),
        user_messages=sum(count[event] for event in USER_MESSAGES),
        robot_messages=count["ChatBot.RobotSendMsg"],
        agent_messages=count[AGENT_MESSAGE],
        forwards=count["AgentForward"],
        rejected_events=len(life) - len(accepted),
        begun_at=accepted[0].at,
        transfer_requested_at=asked,
        queued_at=_entered(accepted, QUEUED),
        agent_joined_at=joined,
        answered_at=_answered(accepted),
        first_agent_reply_at=replied,
        closing_at=_entered(accepted, CLOSING),
        ended_at=_entered(accepted, ENDED),
        last_event_at=max(e.at for e in accepted),
        state_since=_changes(accepted)[-1].at,
        last_user_message_at=_last((e.at for e in accepted if e.event in USER_MESSAGES), None),
        last_agent_message_at=_last((e.at for e in accepted if e.event == AGENT_MESSAGE), None),
        queue_wait=_time_in(accepted, QUEUED),
        first_response=None if replied is None or since is None else replied - since,
        handle_time=_time_in(accepted, WITH_AGENT, FORWARDED),
    )


def _entered(accepted: Sequence[Happened], state: str) -> int | None:
    return next((each.at for each in accepted if each.after == state), None)


def _changes(accepted: Sequence[Happened]) -> list[Happened]:
    """List the events that changed the state."""
    before = ["", *(each.after for each in accepted)]
    return [each for each, state in zip(accepted, before, strict=False) if each.after != state]


def _answered(accepted: Sequence[Happened]) -> int | None:
    """Return when an agent first joined a user who was waiting."""
    for before, each in pairwise(_changes(accepted)):
        if each.after == WITH_AGENT and before.after in (TRANSFERRING, QUEUED):
            return each.at
    return None


def _last(values: Iterable[Value], default: Value) -> Value:
    *_, last = (default, *values)
    return last


def _agents(accepted: Sequence[Happened]) -> list[str]:
    """List the agents who had the session, in order; a message while CLOSING does not count."""
    taken = [each for each in accepted if each.event in TAKES and each.after != CLOSING]
    return [agent for each in taken for agent in (each.previous_agent, each.agent) if agent]


def _last_agents(agents: Sequence[str]) -> tuple[str, ...]:
    """List the last agents, each once, in the order in which they last had the session."""
    return tuple(reversed(list(dict.fromkeys(reversed(agents)))[:MOST_AGENTS]))


def _last_live(accepted: Sequence[Happened]) -> str:
    return [each.after for each in accepted if each.after not in (CLOSING, ENDED)][-1]


def _time_in(accepted: Sequence[Happened], *states: str) -> int | None:
    """Sum up the finished stays in `states`, ms; None if there is none."""
    stays, since = [], None
    for each in accepted:
        if each.after in states:
            since = each.at if since is None else since
        elif since is not None:
            stays.append(each.at - since)
            since = None
    return sum(stays) if stays else None

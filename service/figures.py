"""The figures of one session, which board and reports add up.

A late callback corrects a sum: the session's former figures are subtracted, its new ones added.
Pure: no I/O, no clock. All times are milliseconds of Desk's clock.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple

from callback.catalogue import HANDLED, LIVE, WAITING, EndReason, State
from service.session import MAX_STAYS, Session, Stay

BY_USER = (EndReason.QUEUE_ABANDONED, EndReason.USER, EndReason.USER_TIMEOUT)
"""End reasons of a session whose user gave up."""


class Span(NamedTuple):
    """A stay with its end; None while it lasts."""

    state: State
    agent_id: str
    start: int
    end: int | None


class Result(StrEnum):
    """The result of a request for an agent.

    Attributes:
        WAITING: the user waits.
        ANSWERED: an agent joined.
        ABANDONED: the user gave up while waiting.
        SENT_BACK: no agent was online, and none has answered later.
        ENDED_OTHERWISE: the session ended while the user waited, but not by the user.
    """

    WAITING = "WAITING"
    ANSWERED = "ANSWERED"
    ABANDONED = "ABANDONED"
    SENT_BACK = "SENT_BACK"
    ENDED_OTHERWISE = "ENDED_OTHERWISE"


class Offer(NamedTuple):
    """A session that was offered to the agents.

    Attributes:
        offered_at: the first time that the user waited for an agent.
        wait: from there until an agent joined or the user gave up; None for other results.
        is_forwarded: an agent handed the session on.
    """

    offered_at: int
    result: Result
    wait: int | None = None
    is_forwarded: bool = False


def spans(session: Session) -> Iterator[Span]:
    """Yield the stays that a session lists."""
    for stay, end in _with_ends(session):
        # A SessionBegin stands in the order before its own time.
        start = stay.start if end is None else min(stay.start, end)
        yield Span(stay.state, stay.agent_id, start, end)


def handled(session: Session) -> Iterator[Span]:
    """Yield the stays with agents, from which handle times and concurrency are computed."""
    for stay, end in _with_ends(session):
        if stay.state in HANDLED:
            yield Span(stay.state, stay.agent_id, stay.start, end)


def _with_ends(session: Session) -> Iterable[tuple[Stay, int | None]]:
    ends = [*(stay.start for stay in session.stays[1:]), None]
    return zip(session.stays[:MAX_STAYS], ends, strict=False)


def offer(session: Session) -> Offer | None:
    """Return the result of the session's request for an agent; None if nobody has waited."""
    asked = [time for time in (session.transfer_requested_at, session.queued_at) if time]
    if not asked:
        return None
    offered_at = min(asked)
    if session.answered_at is not None:
        wait = session.answered_at - offered_at
        return Offer(offered_at, Result.ANSWERED, wait, session.forwards > 0)
    if session.state in WAITING:
        return Offer(offered_at, Result.WAITING)
    if _last_live_state(session) not in WAITING:
        return Offer(offered_at, Result.SENT_BACK)
    ended_at = session.closing_at or session.ended_at
    if session.end_reason in BY_USER and ended_at is not None:
        return Offer(offered_at, Result.ABANDONED, ended_at - offered_at)
    return Offer(offered_at, Result.ENDED_OTHERWISE)


def waiting_since(session: Session) -> int | None:
    """Return the time since which the user has been waiting for an agent; None if nobody waits."""
    if session.state not in WAITING:
        return None
    since = session.state_since
    if session.stay_count <= MAX_STAYS:
        for span in reversed(list(spans(session))):
            if span.state not in WAITING:
                break
            since = span.start
    return since


def unanswered_since(session: Session) -> int | None:
    """Return the time of the user's last message if an agent has the session and owes an answer."""
    asked, answered = session.last_user_message_at, session.last_agent_message_at
    if session.state not in HANDLED or asked is None:
        return None
    return asked if answered is None or asked > answered else None


def answering_agent(session: Session) -> str:
    """Return the agent who answered a waiting user; "" if nobody has, or nobody was named."""
    answered_at = session.answered_at
    if answered_at is None:
        return ""
    joined = (stay for stay in session.stays if stay.state is State.WITH_AGENT)
    return next((stay.agent_id for stay in joined if stay.start >= answered_at), "")


def is_contained(session: Session) -> bool:
    """Return True if the session is over, never had an agent, and nobody waited for one."""
    over = session.state not in LIVE and session.state is not State.NEW
    asked = session.transfer_requested_at or session.queued_at
    return over and not asked and session.agent_joined_at is None


def _last_live_state(session: Session) -> State | None:
    """Return the state before the end, as far as it is listed."""
    states = [stay.state for stay in session.stays if stay.state in LIVE]
    return states[-1] if states else None

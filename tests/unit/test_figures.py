"""The figures of a session, on the lives that supervisors ask about."""

from itertools import pairwise

import pytest

from callback.catalogue import State
from service.figures import (
    Offer,
    Result,
    Span,
    handled,
    is_contained,
    offer,
    spans,
    unanswered_since,
    waiting_since,
)
from service.history import History, HistoryEntry
from service.session import MAX_STAYS, Session, without_message
from tests.support.callbacks import NOON, body, decode, life

QUEUE = ("SessionBegin", "TransferringToHuman", "TransferringToHumanWait")
STEP = 10_000
"""Milliseconds between the callbacks of a life."""


def session_of(*events: str) -> Session:
    return fold(life(*events, AgentId="ann"))


def fold(bodies: list[bytes]) -> Session:
    return History.replay(
        HistoryEntry.of(without_message(decode(each, NOON), b"%05d" % place), place)
        for place, each in enumerate(bodies, 1)
    ).session


@pytest.mark.parametrize(
    ("events", "result", "wait"),
    [
        (QUEUE, Result.WAITING, None),
        ((*QUEUE, "TransferToHumanSuccess"), Result.ANSWERED, 2 * STEP),
        ((*QUEUE, "TransferToHumanSuccess", "SessionUserEnd"), Result.ANSWERED, 2 * STEP),
        ((*QUEUE, "SessionPendingAutoFinishEnd"), Result.ABANDONED, 2 * STEP),
        ((*QUEUE, "SessionUserEnd", "SessionEnd"), Result.ABANDONED, 2 * STEP),
        ((*QUEUE, "SessionEnd", "SessionUserTimeoutEnd"), Result.ABANDONED, 2 * STEP),
        ((*QUEUE, "SessionAgentEnd"), Result.ENDED_OTHERWISE, None),
        ((*QUEUE, "SessionEnd"), Result.ENDED_OTHERWISE, None),
        ((*QUEUE, "NoAgentOnline"), Result.SENT_BACK, None),
        ((*QUEUE, "NoAgentOnline", "SessionUserEnd"), Result.SENT_BACK, None),
        ((*QUEUE, "NoAgentOnline", *QUEUE[1:]), Result.WAITING, None),
    ],
)
def test_a_request_for_an_agent_has_one_result(
    events: tuple[str, ...], result: Result, wait: int | None
) -> None:
    assert offer(session_of(*events)) == Offer(NOON + STEP, result, wait)


def test_who_never_asked_for_an_agent_is_contained_once_it_is_over() -> None:
    chat = ("SessionBegin", "ChatBot.UserSendMsg")
    assert offer(session_of(*chat)) is None
    assert not is_contained(session_of(*chat))
    assert is_contained(session_of(*chat, "SessionUserEnd"))
    assert not is_contained(session_of(*QUEUE, "SessionUserEnd"))


def test_waiting_counts_from_the_request_that_is_open() -> None:
    assert waiting_since(session_of(*QUEUE)) == NOON + STEP
    again = session_of(*QUEUE, "NoAgentOnline", *QUEUE[1:])
    assert waiting_since(again) == NOON + 4 * STEP
    assert waiting_since(session_of(*QUEUE, "TransferToHumanSuccess")) is None


def test_an_agent_owes_an_answer_until_it_is_written() -> None:
    joined = (*QUEUE, "TransferToHumanSuccess", "Human.UserSendMsg")
    assert unanswered_since(session_of(*joined)) == NOON + 4 * STEP
    assert unanswered_since(session_of(*joined, "Human.AgentSendMsg")) is None
    assert unanswered_since(session_of(*joined, "SessionUserEnd")) is None


def test_handle_time_is_that_of_the_agent_who_had_the_session() -> None:
    session = fold(
        [
            *life(*QUEUE, "TransferToHumanSuccess", AgentId="ann"),
            body("AgentForward", NOON + 50_000, ForwardFromAgentId="ann", AgentId="bob"),
            body("Human.AgentSendMsg", NOON + 60_000, AgentId="bob"),
            body("SessionAgentEnd", NOON + 90_000),
        ]
    )
    assert list(handled(session)) == [
        Span(State.WITH_AGENT, "ann", NOON + 30_000, NOON + 50_000),
        Span(State.FORWARDED, "bob", NOON + 50_000, NOON + 60_000),
        Span(State.WITH_AGENT, "bob", NOON + 60_000, NOON + 90_000),
    ]
    total = sum((span.end or 0) - span.start for span in handled(session))
    assert total == session.handle_time == 60_000


def test_stays_follow_one_another_up_to_the_last_that_is_listed() -> None:
    session = session_of("SessionBegin", *["TransferringToHuman", "NoAgentOnline"] * MAX_STAYS)
    found = list(spans(session))
    assert (len(found), session.stay_count) == (MAX_STAYS, 2 * MAX_STAYS + 1)
    assert all(span.end == after.start for span, after in pairwise(found))
    assert found[-1].end == NOON + MAX_STAYS * STEP
    assert offer(session) == Offer(NOON + STEP, Result.SENT_BACK)

"""What a session's callbacks make of it: the figures, on whole lives."""

import pytest
from msgspec.structs import replace

from journal.callback import decode
from service.history import History, Placed, order_key
from service.machine import EndReason, State
from service.session import Reason, Session, Verdict, explain
from tests.support.callbacks import NOON, body, life

SECOND = 1_000


def fold(bodies: list[bytes]) -> History:
    placed = []
    for revision, each in enumerate(bodies, 1):
        callback = decode(each)
        placed.append(Placed(order_key(callback, b"%d" % revision), revision, callback))
    return History.replay(placed)


def session_of(*bodies: bytes) -> Session:
    return fold(list(bodies)).session


def reasons(history: History) -> list[Reason]:
    return [placed.outcome.reason for placed in history.tail if placed.outcome]


def test_a_session_with_an_agent_has_all_its_figures() -> None:
    session = session_of(
        body("SessionBegin", NOON),
        body("ChatBot.UserSendMsg", NOON + 1 * SECOND),
        body("ChatBot.RobotSendMsg", NOON + 2 * SECOND),
        body("TransferringToHuman", NOON + 3 * SECOND),
        body("TransferringToHumanWait", NOON + 4 * SECOND),
        body("TransferringToHumanWait", NOON + 5 * SECOND),
        body("TransferToHumanSuccess", NOON + 10 * SECOND, AgentId="ann"),
        body("Human.UserSendMsg", NOON + 11 * SECOND),
        body("Human.AgentSendMsg", NOON + 15 * SECOND, AgentId="ann"),
        body("AgentForward", NOON + 20 * SECOND, AgentId="bob", ForwardFromAgentId="ann"),
        body("Human.AgentSendMsg", NOON + 25 * SECOND, AgentId="bob"),
        body("SessionUserEnd", NOON + 30 * SECOND),
        body("SessionEnd", NOON + 31 * SECOND),
        body("SatisfactionSelected", NOON + 40 * SECOND, SatisfactionSelected=4),
    )
    assert session == Session(
        state=State.ENDED,
        end_reason=EndReason.USER,
        client_user_id="user-1",
        customer_service_id="@service",
        channel_type="SDK",
        agent_id="bob",
        agent_ids=("ann", "bob"),
        satisfaction=4,
        user_messages=2,
        robot_messages=1,
        agent_messages=2,
        forwards=1,
        begun_at=NOON,
        transfer_requested_at=NOON + 3 * SECOND,
        queued_at=NOON + 4 * SECOND,
        agent_joined_at=NOON + 10 * SECOND,
        first_agent_reply_at=NOON + 15 * SECOND,
        closing_at=NOON + 30 * SECOND,
        ended_at=NOON + 31 * SECOND,
        last_event_at=NOON + 40 * SECOND,
        queue_wait=6 * SECOND,
        handle_time=20 * SECOND,
    )
    assert session.first_response == 12 * SECOND


def test_two_stays_in_the_queue_add_up() -> None:
    session = session_of(
        *life("SessionBegin", "TransferringToHuman", "TransferringToHumanWait", "NoAgentOnline"),
        *life(
            "TransferringToHuman", "TransferringToHumanWait", "SessionUserEnd", start=NOON + 10**6
        ),
    )
    assert session.queue_wait == 20 * SECOND
    assert session.queued_at == NOON + 20 * SECOND
    assert session.handle_time is None


def test_a_session_that_goes_back_to_waiting_is_nobodys() -> None:
    joined = life("SessionBegin", "TransferringToHuman", "TransferToHumanSuccess", AgentId="ann")
    forwarded = body("AgentForward", NOON + 30 * SECOND, AgentId="bob")
    waiting = body("TransferringToHumanWait", NOON + 40 * SECOND)
    assert session_of(*joined).agent_id == "ann"
    assert session_of(*joined, forwarded).agent_id == "bob"
    assert session_of(*joined, forwarded, waiting).agent_id == ""
    assert session_of(*joined, forwarded, waiting).agent_ids == ("ann", "bob")


def test_the_response_to_an_agents_own_contact_counts_from_the_joining() -> None:
    session = session_of(
        body("SessionBegin", NOON, IsContactUser=True),
        body("TransferToHumanSuccess", NOON + 2 * SECOND),
        body("Human.AgentSendMsg", NOON + 5 * SECOND),
    )
    assert session.first_response == 3 * SECOND


def test_a_transfer_asked_for_after_the_first_reply_does_not_count_for_it() -> None:
    session = session_of(
        body("SessionBegin", NOON, IsContactUser=True),
        body("TransferToHumanSuccess", NOON + 2 * SECOND, AgentId="ann"),
        body("Human.AgentSendMsg", NOON + 5 * SECOND, AgentId="ann"),
        body("AgentForward", NOON + 6 * SECOND, AgentId="bob"),
        body("TransferringToHuman", NOON + 25 * SECOND),
    )
    assert session.first_response == 3 * SECOND


def test_a_session_remembers_a_hundred_agents_at_most() -> None:
    joined = life("SessionBegin", "TransferringToHuman", "TransferToHumanSuccess", AgentId="first")
    forwards = [body("AgentForward", NOON + 10**6 + n, AgentId=f"a{n}") for n in range(150)]
    session = session_of(*joined, *forwards)
    assert session.agent_ids == ("first", *(f"a{n}" for n in range(99)))
    assert (session.agent_id, session.forwards) == ("a149", 150)


def test_a_name_that_is_too_long_counts_as_absent() -> None:
    joined = life(
        "SessionBegin", "TransferringToHuman", "TransferToHumanSuccess", AgentId="x" * 257
    )
    assert session_of(*joined).agent_ids == ()
    fits = life("SessionBegin", "TransferringToHuman", "TransferToHumanSuccess", AgentId="x" * 256)
    assert session_of(*fits).agent_id == "x" * 256


def test_meaningless_defaults_are_not_taken_for_facts() -> None:
    session = session_of(*life("SessionBegin", "ChatBot.UserSendMsg"))
    assert session.agent_id == ""
    assert session.agent_ids == ()
    assert session.satisfaction == 0


def test_a_users_first_message_may_be_up_to_5_s_older_than_the_begin() -> None:
    begin = body("SessionBegin", NOON)
    just = body("ChatBot.UserSendMsg", NOON - 5 * SECOND)
    too_old = body("ChatBot.UserSendMsg", NOON - 5 * SECOND - 1)
    history = fold([too_old, just, begin])
    assert reasons(history) == [Reason.NOT_BEGUN, Reason.UNSPECIFIED, Reason.UNSPECIFIED]
    assert history.session.begun_at == NOON
    assert history.session.user_messages == 1


def test_a_reason_may_follow_the_end_once() -> None:
    bodies = life("SessionBegin", "SessionEnd", "SessionUserTimeoutEnd", "SessionUserEnd")
    history = fold(bodies)
    assert history.session.end_reason is EndReason.USER_TIMEOUT
    assert history.session.closing_at is None
    assert reasons(history)[-1] is Reason.AFTER_END


@pytest.mark.parametrize(
    ("events", "reason", "sentence"),
    [
        (["SessionEnd"], Reason.NOT_BEGUN, "SessionEnd came before any SessionBegin"),
        (
            ["SessionBegin", "SessionBegin"],
            Reason.ALREADY_BEGUN,
            "a second SessionBegin: the session was already CHATBOT",
        ),
        (
            ["SessionBegin", "SessionEnd", "Human.UserSendMsg"],
            Reason.AFTER_END,
            "Human.UserSendMsg came after the session had ended",
        ),
        (
            ["SessionBegin", "AgentForward"],
            Reason.IMPOSSIBLE_IN_STATE,
            "AgentForward is impossible while the session is CHATBOT",
        ),
    ],
)
def test_a_rejection_says_why(events: list[str], reason: Reason, sentence: str) -> None:
    history = fold(life(*events))
    outcome = history.tail[-1].outcome
    assert outcome is not None
    assert (outcome.verdict, outcome.reason) == (Verdict.REJECTED, reason)
    assert explain(outcome, events[-1]) == sentence
    assert history.session.rejected_events == 1


def test_an_unknown_type_is_kept_and_changes_nothing_but_the_last_time() -> None:
    history = fold(life("SessionBegin", "Brand.New"))
    outcome = history.tail[-1].outcome
    assert outcome is not None
    assert outcome.verdict is Verdict.UNRECOGNISED
    begun = fold(life("SessionBegin")).session
    assert history.session == replace(begun, last_event_at=NOON + 10 * SECOND)


@pytest.mark.parametrize(
    "event", ["_name", "add_model", "__class__", "SessionBegin ", "sessionbegin"]
)
def test_payload_text_never_names_a_trigger(event: str) -> None:
    outcome = fold(life("SessionBegin", event)).tail[-1].outcome
    assert outcome is not None
    assert outcome.verdict is Verdict.UNRECOGNISED

"""The figures of a session, on whole lives."""

import pytest
from msgspec.structs import replace

from callback.catalogue import EndReason, State
from callback.decoder import MAX_EVENT_TIME
from service.history import TAIL, FoldLimits, History, HistoryEntry
from service.session import Reason, Session, Stay, Verdict, explain, without_message
from tests.support.callbacks import NOON, body, decode, life

SECOND = 1_000


def fold(bodies: list[bytes]) -> History:
    return History.replay(placed(revision, each) for revision, each in enumerate(bodies, 1))


def placed(revision: int, given: bytes) -> HistoryEntry:
    facts = without_message(decode(given, MAX_EVENT_TIME), b"%05d" % revision)
    return HistoryEntry.of(facts, revision)


def session_of(*bodies: bytes) -> Session:
    return fold(list(bodies)).session


def stay(state: State, agent_id: str, start: int) -> Stay:
    """Make a stay that began so many seconds after noon."""
    return Stay(state, agent_id, NOON + start * SECOND)


def reasons(history: History) -> list[Reason]:
    return [each.outcome.reason for each in history.tail if each.outcome]


WITH_AN_AGENT = [
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
]

STAYS = (
    stay(State.CHATBOT, "", 0),
    stay(State.TRANSFERRING, "", 3),
    stay(State.QUEUED, "", 4),
    stay(State.WITH_AGENT, "ann", 10),
    stay(State.FORWARDED, "bob", 20),
    stay(State.WITH_AGENT, "bob", 25),
    stay(State.CLOSING, "bob", 30),
    stay(State.ENDED, "bob", 31),
)
"""Stays of that session."""


def test_a_session_with_an_agent_has_all_its_fields() -> None:
    assert session_of(*WITH_AN_AGENT) == Session(
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
        agent_count=2,
        begun_at=NOON,
        transfer_requested_at=NOON + 3 * SECOND,
        queued_at=NOON + 4 * SECOND,
        agent_joined_at=NOON + 10 * SECOND,
        first_agent_reply_at=NOON + 15 * SECOND,
        closing_at=NOON + 30 * SECOND,
        ended_at=NOON + 31 * SECOND,
        answered_at=NOON + 10 * SECOND,
        last_event_at=NOON + 40 * SECOND,
        last_user_message_at=NOON + 11 * SECOND,
        last_agent_message_at=NOON + 25 * SECOND,
        queue_time=6 * SECOND,
        queue_stays=1,
        handled_time=20 * SECOND,
        handled_stays=1,
        stay_count=8,
        stays=STAYS,
    )


def test_a_session_with_an_agent_has_all_its_figures() -> None:
    session = session_of(*WITH_AN_AGENT)
    assert session.state_since == NOON + 31 * SECOND
    assert (session.queue_wait, session.handle_time) == (6 * SECOND, 20 * SECOND)
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


def test_a_session_lists_the_last_twenty_agents_and_says_how_many_there_were() -> None:
    joined = life("SessionBegin", "TransferringToHuman", "TransferToHumanSuccess", AgentId="first")
    forwards = [body("AgentForward", NOON + 10**6 + n, AgentId=f"a{n}") for n in range(50)]
    session = session_of(*joined, *forwards)
    assert session.agent_ids == tuple(f"a{n}" for n in range(30, 50))
    assert (session.agent_id, session.agent_count) == ("a49", 51)


def test_an_agent_who_had_the_session_again_is_the_latest() -> None:
    session = session_of(
        *life("SessionBegin", "TransferringToHuman", "TransferToHumanSuccess", AgentId="ann"),
        body("AgentForward", NOON + 10**6, ForwardFromAgentId="ann", AgentId="bob"),
        body("AgentForward", NOON + 10**6 + 1, ForwardFromAgentId="bob", AgentId="ann"),
    )
    assert (session.agent_ids, session.agent_count) == (("bob", "ann"), 2)


def test_a_name_that_is_too_long_counts_as_absent() -> None:
    for agent, found in (("x" * 257, ()), ("x" * 256, ("x" * 256,)), ("你" * 86, ())):
        joined = life(
            "SessionBegin", "TransferringToHuman", "TransferToHumanSuccess", AgentId=agent
        )
        assert session_of(*joined).agent_ids == found


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


def test_a_message_that_is_reported_again_as_it_grows_is_counted_once_a_side() -> None:
    said = [
        ("ChatBot.RobotSendMsg", "k"),
        ("ChatBot.UserSendMsg", "k"),
        ("ChatBot.RobotSendMsg", "k"),
        ("ChatBot.RobotSendMsg", "l"),
        ("ChatBot.RobotSendMsg", "k"),
        ("ChatBot.RobotSendMsg", ""),
        ("ChatBot.RobotSendMsg", ""),
    ]
    messages = [body(event, NOON + n, MsgKey=key) for n, (event, key) in enumerate(said, 1)]
    session = session_of(body("SessionBegin", NOON), *messages)
    assert (session.robot_messages, session.user_messages) == (5, 1)


def test_what_an_agent_says_while_closing_is_counted_but_is_no_response() -> None:
    session = session_of(
        *life("SessionBegin", "TransferringToHuman", "SessionUserEnd"),
        body("Human.AgentSendMsg", NOON + 10**6, AgentId="ann"),
    )
    assert (session.agent_messages, session.first_agent_reply_at) == (1, None)
    assert (session.agent_id, session.agent_ids) == ("", ())


def test_the_queue_may_be_ended_by_an_agent() -> None:
    session = session_of(
        *life("SessionBegin", "TransferringToHuman", "TransferringToHumanWait", "SessionAgentEnd")
    )
    assert (session.state, session.end_reason) == (State.CLOSING, EndReason.AGENT)
    assert session.queue_wait == 10 * SECOND


def arriving(*bodies: bytes) -> History:
    """Make the history of callbacks that arrive in this order."""
    history = History()
    for revision, each in enumerate(bodies, 1):
        history.add(placed(revision, each))
    return history


def revised_by(history: History, given: bytes) -> list[int]:
    """Return the revisions of the callbacks whose verdict a late one changes."""
    return [each.revision for each in history.add(placed(99_999, given))[1:]]


def test_a_late_callback_folds_again_only_what_it_changes() -> None:
    bodies = [
        body("SessionBegin", NOON),
        *(body("ChatBot.UserSendMsg", NOON + n) for n in range(1, 1_000)),
    ]
    history = arriving(*bodies)
    assert revised_by(history, body("ChatBot.RobotSendMsg", NOON + 1)) == []
    assert history.usage.redone == 0
    assert revised_by(history, body("TransferringToHuman", NOON + 997)) == []
    assert history.usage.redone == 2
    assert revised_by(history, body("SessionEnd", NOON + 997)) == [999, 1000]
    assert history.session.user_messages == 997


def test_a_session_that_arrives_newest_first_is_folded_again_once() -> None:
    bodies = [
        body("SessionBegin", NOON),
        *(body("ChatBot.UserSendMsg", NOON + n) for n in range(1, 1_000)),
    ]
    history = arriving(*reversed(bodies))
    assert history.usage.redone == 999
    assert history.session.user_messages == 999
    assert history.session.rejected_events == 0


def test_a_callback_that_takes_back_a_first_time_leaves_the_next_one() -> None:
    history = arriving(
        body("SessionBegin", NOON, IsContactUser=True, ClientUserId=""),
        body("TransferringToHuman", NOON + 20, ClientUserId="first"),
        body("ChatBot.UserSendMsg", NOON + 30, ClientUserId="second"),
        body("AgentForward", NOON + 40, ClientUserId="third"),
        body("TransferringToHuman", NOON + 50, ClientUserId="fourth"),
    )
    session = history.session
    assert (session.transfer_requested_at, session.client_user_id) == (NOON + 20, "first")
    assert revised_by(history, body("TransferToHumanSuccess", NOON + 10, ClientUserId="")) == [2, 3]
    assert (session.transfer_requested_at, session.client_user_id) == (NOON + 50, "third")


def test_a_callback_that_takes_back_the_last_time_leaves_the_one_before() -> None:
    history = arriving(body("SessionBegin", NOON), body("NoAgentOnline", NOON + 10_000))
    assert history.session.last_event_at == NOON + 10_000
    assert revised_by(history, body("SessionEnd", NOON + 2_000)) == [2]
    assert history.session.last_event_at == NOON + 2_000


def test_the_last_time_may_be_that_of_the_begin_which_sorts_before_its_time() -> None:
    first, second = (body("ChatBot.UserSendMsg", NOON - n) for n in (2_000, 1_000))
    history = arriving(body("SessionBegin", NOON), first, second, body("NoAgentOnline", NOON + 1))
    assert revised_by(history, body("SessionEnd", NOON - 1_500)) == [3, 4]
    assert history.session.last_event_at == NOON


def test_a_late_callback_corrects_the_stays_that_it_changes() -> None:
    history = arriving(
        body("SessionBegin", NOON),
        body("TransferringToHuman", NOON + 10 * SECOND),
        body("TransferToHumanSuccess", NOON + 20 * SECOND, AgentId="ann"),
        body("SessionUserEnd", NOON + 60 * SECOND),
    )
    history.add(placed(5, body("TransferringToHumanWait", NOON + 15 * SECOND)))
    history.add(placed(6, body("AgentForward", NOON + 40 * SECOND, AgentId="bob")))
    session = history.session
    assert session.stays == (
        stay(State.CHATBOT, "", 0),
        stay(State.TRANSFERRING, "", 10),
        stay(State.QUEUED, "", 15),
        stay(State.WITH_AGENT, "ann", 20),
        stay(State.FORWARDED, "bob", 40),
        stay(State.CLOSING, "bob", 60),
    )
    assert (session.stay_count, session.state_since) == (6, NOON + 60 * SECOND)
    history.add(placed(7, body("SessionEnd", NOON + 12 * SECOND)))
    assert session.stays == (
        stay(State.CHATBOT, "", 0),
        stay(State.TRANSFERRING, "", 10),
        stay(State.ENDED, "", 12),
    )
    assert (session.stay_count, session.state_since) == (3, NOON + 12 * SECOND)
    assert session.answered_at is None


def test_a_stay_changes_with_the_agent_although_the_state_does_not() -> None:
    session = session_of(
        *life("SessionBegin", "TransferringToHuman", "TransferToHumanSuccess", AgentId="ann"),
        body("Human.AgentSendMsg", NOON + 30 * SECOND, AgentId="ann"),
        body("Human.AgentSendMsg", NOON + 40 * SECOND, AgentId="bob"),
    )
    assert session.stays[-2:] == (
        stay(State.WITH_AGENT, "ann", 20),
        stay(State.WITH_AGENT, "bob", 40),
    )
    assert session.state_since == NOON + 20 * SECOND


def test_an_agent_who_contacts_the_user_answers_nobody() -> None:
    contacted = [
        body("SessionBegin", NOON, IsContactUser=True),
        body("TransferToHumanSuccess", NOON + 1 * SECOND, AgentId="ann"),
    ]
    forwarded = [
        body("AgentForward", NOON + 2 * SECOND, AgentId="bob"),
        body("TransferringToHuman", NOON + 3 * SECOND),
        body("TransferToHumanSuccess", NOON + 9 * SECOND, AgentId="cid"),
    ]
    assert session_of(*contacted).answered_at is None
    assert session_of(*contacted, *forwarded).answered_at == NOON + 9 * SECOND


def test_a_repetition_changes_nothing() -> None:
    history = arriving(*life("SessionBegin", "ChatBot.UserSendMsg", "SessionEnd"))
    before = replace(history.session)
    for place, each in enumerate(life("SessionBegin", "ChatBot.UserSendMsg", "SessionEnd"), 1):
        assert history.add(placed(place, each)) == []
    assert history.session == before
    assert history.usage.callbacks == 3


def test_a_history_that_was_let_go_or_saved_says_when_it_is_needed() -> None:
    bodies = [body("SessionBegin", NOON), *(body("Brand.New", NOON + n) for n in range(1, 100))]
    history = arriving(*bodies)
    history.trim()
    assert len(history.tail) == TAIL
    restored = History.restore(history.save())
    assert not history.reaches(placed(2, bodies[1]).key)
    assert not restored.reaches(placed(99, bodies[98]).key)
    assert restored.add(placed(100, bodies[99])) == []
    assert restored.session == history.session
    assert history.add(placed(99, bodies[98])) == []


def test_a_history_that_was_read_back_once_stays_at_hand() -> None:
    bodies = [body("SessionBegin", NOON), *(body("Brand.New", NOON + n) for n in range(1, 100))]
    history = fold(bodies)
    history.trim()
    assert history.add(placed(2, bodies[1])) == []


@pytest.mark.parametrize(
    "limits", [FoldLimits(callbacks=2), FoldLimits(revised=1), FoldLimits(redone=1)], ids=str
)
def test_a_session_has_no_room_once_a_limit_is_used_up(limits: FoldLimits) -> None:
    history = arriving(body("ChatBot.UserSendMsg", NOON))
    assert not history.usage.is_used_up(limits)
    history.add(placed(2, body("SessionBegin", NOON)))
    assert history.usage.is_used_up(limits)


def test_a_callback_that_a_session_has_no_room_for_is_rejected_and_counted_only() -> None:
    history = arriving(body("ChatBot.UserSendMsg", NOON), body("SessionBegin", NOON))
    session, usage = replace(history.session, rejected_events=1), replace(history.usage)
    history.close()
    refused = history.reject(placed(3, body("SessionEnd", NOON + 1)))
    assert refused.outcome
    assert (refused.outcome.reason, refused.outcome.before, refused.outcome.after) == (
        Reason.SESSION_TOO_LONG,
        State.CHATBOT,
        State.CHATBOT,
    )
    assert explain(refused.outcome, "SessionEnd").startswith("SessionEnd came when")
    assert (history.session, history.usage) == (session, usage)
    restored = History.restore(history.save())
    assert restored.reject(placed(4, body("SessionEnd", NOON + 1))).outcome == refused.outcome

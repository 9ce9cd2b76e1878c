"""Decisions where Desk's documentation is silent: one example each (docs/callbacks.md).

Entries go in, and the feed and the sessions that come out are looked at.
"""

import json
from contextlib import closing
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from desk.v1.event_pb2 import RejectionReason, SessionRecord, Verdict
from desk.v1.session_pb2 import EndReason, Session, SessionState
from journal.entry import Entry
from service.history import FoldLimits
from service.view.reader import Reader
from tests.support.callbacks import APP, NOON, SESSION, body, entries, entry, life
from tests.support.views import view

SECOND = 1_000
DAY = 24 * 60 * 60 * SECOND
YEAR_2015 = 1_420_070_400_000

QUEUED = ["SessionBegin", "TransferringToHuman", "TransferringToHumanWait"]
JOINED = ["SessionBegin", "TransferringToHuman", "TransferToHumanSuccess"]
LATER = NOON + 100 * SECOND


class Seen(NamedTuple):
    """The content of a view."""

    records: list[SessionRecord]
    sessions: dict[str, Session]

    @property
    def session(self) -> Session:
        return self.sessions[SESSION]

    @property
    def state(self) -> str:
        return SessionState.Name(self.session.state).removeprefix("SESSION_STATE_")

    @property
    def outcomes(self) -> list[str]:
        """ACCEPTED, UNRECOGNISED or why it was rejected, record by record."""
        return [outcome(each) for each in self.records]


def outcome(record: SessionRecord) -> str:
    if record.rejection_reason:
        return RejectionReason.Name(record.rejection_reason).removeprefix("REJECTION_REASON_")
    return Verdict.Name(record.verdict).removeprefix("VERDICT_")


def after(bodies: list[bytes], **options: Any) -> Seen:
    return journaled(entries(bodies), **options)


def journaled(journal: list[Entry], **options: Any) -> Seen:
    with view([journal], **options) as seen:
        return Seen(seen.records(), seen.sessions())


def renumbered(*journal: Entry) -> list[Entry]:
    return [replace(each, revision=revision) for revision, each in enumerate(journal, 1)]


def spoken(event: str, time: int, **fields: Any) -> bytes:
    """Return a body in ASCII: lone surrogates stay what they are."""
    return json.dumps(json.loads(body(event, time)) | fields).encode()


def said(event: str, *keys: str, start: int = LATER, **fields: Any) -> list[bytes]:
    """Return messages with these keys, one a second."""
    return [
        body(event, start + place * SECOND, MsgKey=key, **fields) for place, key in enumerate(keys)
    ]


# ---- Transitions ----


def test_a_queued_session_may_be_transferred_again_and_has_waited() -> None:
    seen = after(life(*QUEUED, "TransferringToHuman"))
    assert seen.outcomes == ["ACCEPTED"] * 4
    assert seen.state == "TRANSFERRING"
    assert seen.session.queue_wait.ToMilliseconds() == 10 * SECOND


def test_an_agent_who_does_not_take_a_session_in_time_loses_it() -> None:
    handed = body("AgentForward", LATER, AgentId="bob")
    again = body("TransferringToHuman", LATER + SECOND)
    seen = after([*life("SessionBegin", "TransferringToHuman"), handed, again])
    assert seen.outcomes == ["ACCEPTED"] * 4
    assert seen.state == "TRANSFERRING"
    assert seen.session.transfer_requested_at.ToMilliseconds() == NOON + 10 * SECOND
    assert (seen.session.agent_id, list(seen.session.agent_ids)) == ("", ["bob"])


@pytest.mark.parametrize("waiting", [QUEUED, QUEUED[:2]])
def test_an_agent_may_end_a_session_that_waits(waiting: list[str]) -> None:
    seen = after(life(*waiting, "SessionAgentEnd"))
    assert seen.outcomes[-1] == "ACCEPTED"
    assert seen.state == "CLOSING"
    assert seen.session.end_reason == EndReason.END_REASON_AGENT


def test_an_agent_cannot_end_what_the_chatbot_has() -> None:
    assert after(life("SessionBegin", "SessionAgentEnd")).outcomes[-1] == "IMPOSSIBLE_IN_STATE"


def test_in_one_millisecond_an_agent_hands_over_before_another_is_asked_for() -> None:
    at_once = [
        body("TransferringToHuman", LATER),
        body("AgentForward", LATER, AgentId="bob", ForwardFromAgentId="ann"),
    ]
    seen = after([*life(*JOINED, AgentId="ann"), *at_once])
    standing = {each.event.revision: outcome(each) for each in seen.records}
    assert set(standing.values()) == {"ACCEPTED"}
    assert seen.state == "TRANSFERRING"
    assert seen.session.forwards == 1


# ---- Plausible times ----


@pytest.mark.parametrize(
    ("time", "limit"),
    [
        (NOON // 1000, "2015"),
        (YEAR_2015 - 1, "2015"),
        (NOON + DAY + 1, "24 h"),
        (NOON + 10_000 * DAY, "24 h"),
    ],
)
def test_a_time_that_cannot_be_makes_a_callback_malformed(time: int, limit: str) -> None:
    begin, late = body("SessionBegin", NOON), body("SessionEnd", time)
    seen = journaled([entry(1, begin, received_at=NOON), entry(2, late, received_at=NOON)])
    assert seen.outcomes == ["ACCEPTED", "MALFORMED"]
    assert "EventTime" in seen.records[1].rejection_detail
    assert limit in seen.records[1].rejection_detail
    assert seen.records[1].event.raw_body == late
    assert seen.records[1].event.session_id == ""
    assert (seen.state, seen.session.rejected_events) == ("CHATBOT", 0)


@pytest.mark.parametrize("time", [YEAR_2015, NOON, NOON + DAY])
def test_the_first_and_the_last_plausible_time_are_taken(time: int) -> None:
    seen = journaled([entry(1, body("SessionBegin", time), received_at=NOON)])
    assert seen.outcomes == ["ACCEPTED"]


def test_a_time_is_judged_by_when_its_first_copy_was_received() -> None:
    early = entry(1, body("SessionBegin", NOON + 2 * DAY), received_at=NOON)
    again = replace(early, revision=2, received_at=NOON + 2 * DAY)
    assert journaled([early, again]).outcomes == ["MALFORMED"]
    assert journaled([again, replace(early, revision=3)]).outcomes == ["ACCEPTED"]


# ---- Lone surrogates ----


def test_half_an_emoji_in_a_text_is_shown_as_a_replacement_character() -> None:
    part = {"MsgType": "TIMTextElem", "MsgContent": {"Text": "a\ud83d \U0001f642"}}
    half = spoken("ChatBot.UserSendMsg", LATER, MsgBody=[part], ClientUserId="u\udc00")
    seen = after([*life("SessionBegin", ClientUserId=""), half])
    assert b"\\ud83d" in half
    assert seen.outcomes == ["ACCEPTED", "ACCEPTED"]
    event = seen.records[1].event
    assert event.message.elements[0].text == "a\ufffd \U0001f642"
    assert event.client_user_id == seen.session.client_user_id == "u\ufffd"
    assert event.raw_body == half


@pytest.mark.parametrize("field", ["AgentId", "MsgKey", "CloudCustomData", "ChannelType", "New"])
def test_half_an_emoji_in_any_field_but_two_leaves_a_callback_readable(field: str) -> None:
    half = spoken("SessionBegin", NOON, **{field: "\ud83d"})
    assert after([half]).outcomes == ["ACCEPTED"]


@pytest.mark.parametrize("field", ["SessionId", "Event"])
def test_half_an_emoji_in_what_a_callback_is_known_by_is_malformed(field: str) -> None:
    seen = after([spoken("SessionBegin", NOON, **{field: "SessionBegin\ud83d"})])
    assert seen.outcomes == ["MALFORMED"]
    assert field in seen.records[0].rejection_detail


# ---- What is said while CLOSING ----


def test_a_greeting_that_crosses_with_the_users_leaving_is_no_response() -> None:
    greeting = body("Human.AgentSendMsg", LATER, AgentId="ann")
    seen = after([*life(*QUEUED, "SessionUserEnd"), greeting])
    session = seen.session
    assert seen.outcomes[-1] == "ACCEPTED"
    assert session.agent_messages == 1
    assert not session.HasField("first_agent_reply_at")
    assert not session.HasField("first_response")
    assert (session.agent_id, list(session.agent_ids), session.agent_count) == ("", [], 0)
    assert session.last_event_at.ToMilliseconds() == LATER


def test_a_goodbye_of_another_agent_does_not_take_the_session_over() -> None:
    goodbye = body("Human.AgentSendMsg", LATER, AgentId="bob")
    session = after([*life(*JOINED, "SessionUserEnd", AgentId="ann"), goodbye]).session
    assert (session.agent_id, list(session.agent_ids)) == ("ann", ["ann"])


# ---- Streamed messages ----


def test_a_streamed_answer_is_published_as_it_grows_and_counted_once() -> None:
    seen = after([body("SessionBegin", NOON), *said("ChatBot.RobotSendMsg", "k", "k", "k")])
    assert seen.outcomes == ["ACCEPTED"] * 4
    assert seen.session.robot_messages == 1
    assert seen.session.last_event_at.ToMilliseconds() == LATER + 2 * SECOND


@pytest.mark.parametrize(
    ("keys", "count"),
    [
        (["a", "b"], 2),
        (["a", "b", "a"], 3),
        (["", ""], 2),
        (["a", "", "a"], 3),
        (["a", "a", "b", "b"], 2),
        (["k" * 257] * 2, 2),
        (["k" * 256] * 2, 1),
    ],
)
def test_only_the_message_before_it_can_be_the_same_message(keys: list[str], count: int) -> None:
    bodies = [body("SessionBegin", NOON), *said("ChatBot.RobotSendMsg", *keys)]
    assert after(bodies).session.robot_messages == count


def test_each_side_has_its_own_last_message() -> None:
    talk = [
        *said("ChatBot.UserSendMsg", "k", start=NOON + 25 * SECOND),
        *said("Human.UserSendMsg", "k"),
        *said("Human.AgentSendMsg", "k", start=LATER + SECOND),
        *said("Human.UserSendMsg", "k", start=LATER + 2 * SECOND),
    ]
    waiting = life(*QUEUED)
    joined = body("TransferToHumanSuccess", NOON + 30 * SECOND, AgentId="ann")
    session = after([*waiting, joined, *talk]).session
    assert (session.user_messages, session.agent_messages) == (1, 1)


def test_a_rejected_message_is_not_the_message_before() -> None:
    impossible = said("Human.UserSendMsg", "other", start=LATER + SECOND // 2)
    bodies = [
        body("SessionBegin", NOON),
        *said("ChatBot.UserSendMsg", "k", "k"),
        *impossible,
    ]
    seen = after(bodies)
    assert seen.outcomes[-1] == "IMPOSSIBLE_IN_STATE"
    assert seen.session.user_messages == 1


def test_a_message_that_arrives_late_takes_its_place_among_those_of_its_key() -> None:
    first, second, third = said("ChatBot.RobotSendMsg", "k", "other", "k")
    begin = body("SessionBegin", NOON)
    assert after([begin, first, third]).session.robot_messages == 1
    assert after([begin, first, third, second]).session.robot_messages == 3


# ---- Names and agents ----


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        ("ClientUserId", "client_user_id"),
        ("CustomerServiceId", "customer_service_id"),
        ("ChannelType", "channel_type"),
        ("AgentId", "agent_id"),
    ],
)
def test_a_name_has_at_most_256_bytes(field: str, shown: str) -> None:
    fits, too_long = "é" * 128, "é" * 128 + "x"
    with_fitting = after(life(*JOINED, **{field: fits}))
    with_long = after(life(*JOINED, **{field: too_long}))
    assert getattr(with_fitting.session, shown) == fits
    assert getattr(with_fitting.records[-1].event, shown) == fits
    assert getattr(with_long.session, shown) == ""
    assert getattr(with_long.records[-1].event, shown) == ""


def forwards(*agents: str, start: int = LATER) -> list[bytes]:
    return [
        body("AgentForward", start + place * SECOND, AgentId=agent)
        for place, agent in enumerate(agents)
    ]


def test_agents_are_listed_in_the_order_in_which_each_had_the_session_last() -> None:
    session = after([*life(*JOINED, AgentId="ann"), *forwards("bob", "cid", "ann")]).session
    assert list(session.agent_ids) == ["bob", "cid", "ann"]
    assert session.agent_count == 3


def test_who_hands_over_had_the_session_before_who_is_handed_it() -> None:
    handed = body("AgentForward", LATER, AgentId="bob", ForwardFromAgentId="cid")
    session = after([*life(*JOINED, AgentId="ann"), handed]).session
    assert list(session.agent_ids) == ["ann", "cid", "bob"]
    assert session.agent_id == "bob"


def test_a_session_lists_its_last_twenty_agents_and_says_how_many_there_were() -> None:
    names = [f"agent-{number}" for number in range(25)]
    session = after([*life(*JOINED, AgentId="ann"), *forwards(*names)]).session
    assert list(session.agent_ids) == names[5:]
    assert session.agent_count == 26
    assert session.forwards == 25


def test_an_agent_who_comes_back_after_twenty_others_counts_again() -> None:
    names = [f"agent-{number}" for number in range(20)]
    joined = life(*JOINED, AgentId="ann")
    within = after([*joined, *forwards(*names[1:], "ann")]).session
    beyond = after([*joined, *forwards(*names, "ann")]).session
    assert within.agent_count == 20
    assert beyond.agent_count == 22
    assert within.agent_ids[-1] == beyond.agent_ids[-1] == "ann"


# ---- Limits of a session ----

FEW = FoldLimits(callbacks=3, revised=100)


def test_a_callback_beyond_the_limit_is_published_rejected_and_changes_nothing_else() -> None:
    lives = life("SessionBegin", "Unknown", "AgentForward", "SessionEnd", "SessionEnd")
    seen = after(lives, limits=FEW)
    assert seen.outcomes[2:] == ["IMPOSSIBLE_IN_STATE", "SESSION_TOO_LONG", "SESSION_TOO_LONG"]
    assert seen.records[3].rejection_detail
    assert seen.records[3].event.raw_body == lives[3]
    assert seen.state == "CHATBOT"
    assert seen.session.rejected_events == 3
    assert seen.session.last_event_at.ToMilliseconds() == NOON + 10 * SECOND
    assert seen.session.revision == 5


def test_the_limit_is_by_arrival_and_not_by_time() -> None:
    lives = life("SessionBegin", "ChatBot.UserSendMsg", "TransferringToHuman", "SessionEnd")
    assert after(lives[1:], limits=FEW).sessions == {}
    seen = after([*lives[1:], lives[0]], limits=FEW)
    assert seen.outcomes == ["NOT_BEGUN"] * 3 + ["SESSION_TOO_LONG"]
    assert seen.sessions == {}


def test_a_session_that_is_full_does_not_concern_the_others() -> None:
    full = life("SessionBegin", *["ChatBot.UserSendMsg"] * 4)
    other = life("SessionBegin", "ChatBot.UserSendMsg", session_id="other")
    seen = after([*full, *other], limits=FEW)
    assert seen.outcomes[-2:] == ["ACCEPTED"] * 2
    assert seen.sessions["other"].user_messages == 1
    assert seen.session.user_messages == 2


@pytest.mark.parametrize("reopen", [False, True])
def test_repetitions_take_no_room_and_stay_what_they_are_once_it_is_used_up(reopen: bool) -> None:
    lives = life("SessionBegin", "ChatBot.UserSendMsg", "TransferringToHuman", "SessionEnd")
    begin, *rest, malformed = entries([*lives, b"no json"])
    journal = renumbered(begin, begin, begin, *rest, begin, *rest, malformed, malformed)
    with view([[each] for each in journal], limits=FEW, reopen=reopen) as seen:
        records, session = seen.records(), seen.sessions()[SESSION]
    assert [(each.revision, outcome(each)) for each in records] == [
        (1, "ACCEPTED"),
        (4, "ACCEPTED"),
        (5, "ACCEPTED"),
        (6, "SESSION_TOO_LONG"),
        (11, "MALFORMED"),
    ]
    assert (session.revision, session.rejected_events) == (6, 1)


def test_a_session_whose_verdicts_were_revised_too_often_takes_no_more() -> None:
    flipped = life(*["ChatBot.UserSendMsg"] * 3, start=NOON + SECOND)
    begin, more = body("SessionBegin", NOON), body("ChatBot.UserSendMsg", LATER)
    seen = after([*flipped, begin, more], limits=FoldLimits(callbacks=100, revised=3))
    assert seen.outcomes == ["NOT_BEGUN"] * 3 + ["ACCEPTED"] * 4 + ["SESSION_TOO_LONG"]
    assert (seen.session.user_messages, seen.session.rejected_events) == (3, 1)
    roomier = after([*flipped, begin, more], limits=FoldLimits(callbacks=100, revised=4))
    assert roomier.outcomes[-1] == "ACCEPTED"


def test_a_session_takes_twenty_thousand_callbacks() -> None:
    talk = [body("ChatBot.UserSendMsg", NOON + number) for number in range(20_000)]
    seen = after([body("SessionBegin", NOON), *talk])
    assert seen.outcomes[-2:] == ["ACCEPTED", "SESSION_TOO_LONG"]
    assert (seen.session.user_messages, seen.session.rejected_events) == (19_999, 1)


# ---- Repetitions, unknown types, what has not begun ----


@pytest.mark.parametrize("first", [body("SessionBegin", NOON), body("Brand.New", NOON), b"no json"])
def test_a_repeated_entry_publishes_nothing(first: bytes) -> None:
    once = entry(1, first)
    seen = journaled([once, replace(once, revision=7, request_id="again")])
    assert [each.revision for each in seen.records] == [1]
    assert seen == journaled([once])


def test_a_late_callback_is_repeated_without_effect_too() -> None:
    late, *rest = entries(life(*JOINED, "SessionEnd"))
    journal = renumbered(*rest, late, *rest, late)
    seen, once = journaled(journal), journaled(journal[:4])
    assert seen == once
    assert seen.state == "ENDED"


def test_an_unknown_type_changes_nothing_but_the_last_time() -> None:
    known, unknown = life("SessionBegin"), body("Brand.New", LATER, AgentId="ann")
    expected, session = after(known).session, after([*known, unknown]).session
    assert session.last_event_at.ToMilliseconds() == LATER
    expected.last_event_at.FromMilliseconds(LATER)
    expected.revision = 2
    assert session == expected


def test_a_session_that_never_began_says_how_many_callbacks_it_had() -> None:
    journal = entries(life("ChatBot.UserSendMsg", "SessionEnd", "SessionEnd"))
    with view([journal]) as seen, closing(Reader(seen.path)) as reader:
        assert reader.rejected_of(APP, SESSION, 100) == 3
        assert reader.rejected_of(APP, SESSION, 2) == 2
        assert reader.rejected_of(APP, "another", 100) is None

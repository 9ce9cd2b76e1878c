"""The simulator's lives, their order of sending, and its options."""

import json
from array import array
from collections import Counter, defaultdict
from itertools import pairwise

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callback.catalogue import EventType, State
from callback.decoder import MAX_EVENT_TIME, Malformed, identify
from command.cli.simulate_parameters import CallbackUrl, Share, read_token
from display.texts import count_of
from service.history import History, HistoryEntry
from service.session import Outcome, without_message
from simulator import texts
from simulator.callbacks import Made
from simulator.day import DayPlan, lives_of_a_day
from simulator.ledger import Ledger
from simulator.lives import Life, make_lives
from simulator.scripts import IMPOSSIBLE, SCRIPTS
from simulator.sender import Fate, SendOptions, sign
from simulator.summary import percentiles
from simulator.traffic import WINDOW, Delivery, deliveries
from tests.support.callbacks import decode

NOW = 1_800_000_000_000


def lives(
    count: int = 200,
    *,
    seed: int = 1,
    run: str = "run",
    impossible: float = 0,
    malformed: float = 0,
) -> list[Life]:
    return list(
        make_lives(count, seed=seed, run=run, now=NOW, impossible=impossible, malformed=malformed)
    )


def callbacks(all_lives: list[Life]) -> list[Made]:
    return [callback for life in all_lives for callback in life.callbacks]


def test_the_same_seed_run_and_start_give_the_same_bytes() -> None:
    assert lives(50, impossible=0.1, malformed=0.1) == lives(50, impossible=0.1, malformed=0.1)


def test_another_run_with_the_same_seed_has_the_same_lives_under_other_ids() -> None:
    first, second = lives(50), lives(50, run="other")
    assert [life.expectation for life in first] == [life.expectation for life in second]
    assert not {life.session_id for life in first} & {life.session_id for life in second}


def test_no_two_runs_send_the_same_body_not_even_a_malformed_one() -> None:
    first, second = (
        {made.body for made in callbacks(lives(200, run=run, malformed=0.5))} for run in "ab"
    )
    assert not first & second


def test_another_seed_gives_other_lives() -> None:
    assert lives(50)[0].expectation != lives(50, seed=2)[0].expectation


def test_every_event_type_of_the_catalogue_and_every_kind_of_message_is_sent() -> None:
    documents = [json.loads(callback.body) for callback in callbacks(lives(400))]
    missing = {event.value for event in EventType} - {document["Event"] for document in documents}
    assert not missing, f"name it in a script of simulator/scripts.py: {missing}"
    kinds = {part["MsgType"] for document in documents for part in document.get("MsgBody", ())}
    assert kinds == {
        f"TIM{kind}Elem"
        for kind in (
            "Text", "Location", "Face", "Custom", "Sound", "Image", "File", "VideoFile", "Relay"
        )
    }  # fmt: skip


def test_every_script_is_played() -> None:
    endings = Counter(
        (life.expectation.state, life.expectation.end_reason)
        for life in lives(400)
        if life.expectation
    )
    reasons = {reason for state, reason in endings if state == "ENDED"}
    assert reasons == {
        "", "USER", "AGENT", "USER_TIMEOUT", "AGENT_TIMEOUT", "QUEUE_ABANDONED"
    }  # fmt: skip
    assert {state for state, _ in endings} >= {"CHATBOT", "QUEUED", "WITH_AGENT", "ENDED"}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(), impossible=st.sampled_from([0, 0.05, 0.5]))
def test_the_services_own_fold_agrees_with_every_life(seed: int, impossible: float) -> None:
    day = lives_of_a_day(DayPlan(), 20, seed=seed, run="run", now=NOW, impossible=impossible)
    for life in [*lives(20, seed=seed, impossible=impossible), *day]:
        history = History()
        session = history.session
        for number, callback in enumerate(life.callbacks):
            facts = without_message(decode(callback.body, MAX_EVENT_TIME), number.to_bytes(16))
            (own,) = history.add(HistoryEntry.of(facts, number))
            assert own.outcome == Outcome(
                "REJECTED" if callback.reason else "ACCEPTED",
                callback.reason or "UNSPECIFIED",
                callback.before,
                callback.after,
            )
        if life.expectation is None:
            assert session.state is State.NEW
            continue
        for field in life.expectation.__struct_fields__:
            expected = getattr(life.expectation, field)
            if field == "end_reason":
                expected = expected or "UNSPECIFIED"
            assert getattr(session, field) == expected, field


def test_what_the_simulator_holds_to_be_impossible_is_in_no_row_of_the_table() -> None:
    possible = {
        (event, source)
        for event in EventType
        for row in event.row.transitions
        for source in row.sources
        if not row.guard
    }
    wrong = {(event, state) for state, events in IMPOSSIBLE.items() for event in events} & possible
    assert not wrong


def test_scripts_start_with_a_beginning() -> None:
    assert {steps[0].event for steps in SCRIPTS.values()} == {"SessionBegin"}


def test_event_times_are_in_the_past_and_distinct_within_a_session() -> None:
    for life in lives(300, impossible=0.2):
        times = [callback.at for callback in life.callbacks]
        assert len(set(times)) == len(times)
        assert max(times) < NOW


def test_the_share_of_impossible_events_is_about_what_was_asked_for() -> None:
    reasons = Counter(callback.reason for callback in callbacks(lives(1000, impossible=0.1)))
    share = 1 - reasons[""] / reasons.total()
    assert 0.08 < share < 0.13
    assert set(reasons) == {
        "", "NOT_BEGUN", "ALREADY_BEGUN", "AFTER_END", "IMPOSSIBLE_IN_STATE"
    }  # fmt: skip


def test_malformed_bodies_are_no_callbacks_and_all_others_are() -> None:
    made = callbacks(lives(100, malformed=0.2))
    assert any(callback.reason == "MALFORMED" for callback in made)
    for callback in made:
        if callback.reason == "MALFORMED":
            with pytest.raises(Malformed):
                decode(callback.body, MAX_EVENT_TIME)
        else:
            assert decode(callback.body, MAX_EVENT_TIME).session_id == callback.session_id


def test_fields_that_mean_nothing_carry_values_that_must_not_show() -> None:
    documents = [json.loads(callback.body) for callback in callbacks(lives(100))]
    robot = [each for each in documents if each["Event"] == "ChatBot.RobotSendMsg"]
    assert {each["AgentId"] for each in robot} == {"", texts.STRANGER}
    assert all(1 <= each["SatisfactionSelected"] <= 5 for each in robot)


def test_a_forward_names_who_handed_over_and_who_is_next() -> None:
    life = next(life for life in lives() if life.expectation and life.expectation.forwards == 2)
    documents = [json.loads(callback.body) for callback in life.callbacks]
    forwards = [each for each in documents if each["Event"] == "AgentForward"]
    pairs = [(each["ForwardFromAgentId"], each["AgentId"]) for each in forwards]
    assert life.expectation is not None
    assert pairs == list(pairwise(life.expectation.agent_ids))


def sent(all_lives: list[Life], **shares: float) -> list[Delivery]:
    return list(deliveries(all_lives, seed=1, **shares))


def test_without_options_each_callback_is_sent_once_in_the_order_of_its_session() -> None:
    all_lives = lives()
    order = sent(all_lives)
    by_session = defaultdict(list)
    for delivery in order:
        by_session[delivery.callback.session_id].append(delivery.callback.at)
    assert Counter(d.callback.body for d in order) == Counter(c.body for c in callbacks(all_lives))
    assert all(times == sorted(times) for times in by_session.values())
    assert len({delivery.request_id for delivery in order}) == len(order)


def test_sessions_are_interleaved() -> None:
    order = [delivery.callback.session_id for delivery in sent(lives())]
    assert sum(one != two for one, two in pairwise(order)) > len(order) / 2


def test_shuffled_callbacks_are_all_sent_once_and_late_by_a_bounded_time() -> None:
    all_lives = lives()
    order = [delivery.callback for delivery in sent(all_lives, shuffle=0.3)]
    assert Counter(c.body for c in order) == Counter(c.body for c in callbacks(all_lives))
    newest: dict[str, int] = {}
    late = []
    for callback in order:
        before = newest.get(callback.session_id, callback.at)
        late.append(before - callback.at)
        newest[callback.session_id] = max(before, callback.at)
    assert 0.05 < sum(by > 0 for by in late) / len(late) < 0.3
    assert max(late) <= WINDOW


def test_duplicates_are_as_many_as_asked_for_and_half_keep_their_request_id() -> None:
    order = sent(lives(500), duplicates=0.1)
    twice = Counter(delivery.callback.body for delivery in order)
    assert 0.08 < sum(count == 2 for count in twice.values()) / len(twice) < 0.12
    assert max(twice.values()) == 2
    repeated = len(order) - len({delivery.request_id for delivery in order})
    assert 0.4 < repeated / (len(order) - len(twice)) < 0.6


@pytest.mark.parametrize(
    "body", [b'{"b": -0.000031, "a": 1E+22}', b'{"\xc3\xa9":"\\u00e9"}', b"{", b'["\\ud800"]']
)
def test_the_identity_is_that_of_the_service(body: bytes) -> None:
    assert Ledger(1).identify(body) == identify(1, body).hex()


def test_one_delivery_that_was_kept_settles_the_fate_of_its_callback() -> None:
    ledger = Ledger(1)
    (life, *_) = ledger.record(lives(1))
    delivery = Delivery(life.callbacks[0], "r")
    identity = ledger.identify(delivery.callback.body)
    seen = []
    for fate in (Fate.REFUSED, Fate.UNKNOWN, Fate.KEPT, Fate.UNKNOWN, Fate.REFUSED):
        ledger.note(delivery, fate, 7 if fate is Fate.KEPT else None)
        seen.append(ledger.callbacks[identity].fate)
    assert seen == [Fate.REFUSED, Fate.UNKNOWN, Fate.KEPT, Fate.KEPT, Fate.KEPT]
    assert ledger.callbacks[identity].revisions == (7,)


def test_signatures_match_the_vendors_vector() -> None:
    assert sign("xxxxyyyy", 1669872112) == {
        "Sign": "17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061",
        "RequestTime": "1669872112",
    }


def test_the_token_shows_in_no_repr() -> None:
    assert "secret" not in repr(SendOptions(url="http://h", sdk_app_id=1, token="secret"))


def test_a_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.delenv("DESK_SIMULATE_TOKEN", raising=False)
    assert read_token(None) == ""
    monkeypatch.setenv("DESK_SIMULATE_TOKEN", "one")
    assert read_token(None) == "one"
    file = tmp_path / "token"
    file.write_text("two\n")
    assert read_token(file) == "two"
    file.write_text("\n")
    with pytest.raises(click.BadParameter, match="empty"):
        read_token(file)
    with pytest.raises(click.BadParameter, match="cannot read"):
        read_token(tmp_path / "none")


@pytest.mark.parametrize(
    ("written", "share"), [("10%", 0.1), ("0.1", 0.1), (".5", 0.5), ("0", 0), ("1", 1), ("100%", 1)]
)
def test_a_share_is_a_percentage_or_a_fraction(written: str, share: float) -> None:
    assert Share().convert(written, None, None) == pytest.approx(share)


@pytest.mark.parametrize("written", ["101%", "1.1", "-1", "nan", "1e-3", "10 %", "", "%"])
def test_what_is_no_share_is_refused_in_one_line(written: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        Share().convert(written, None, None)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("url", ["desk", "ftp://h/", "http://", "http://u:p@h/", "http://h:x/"])
def test_what_is_no_callback_url_is_refused(url: str) -> None:
    with pytest.raises(click.BadParameter):
        CallbackUrl().convert(url, None, None)


def test_percentiles_are_in_milliseconds() -> None:
    latencies = array("d", [number / 1000 for number in range(1, 1001)])
    assert percentiles(latencies) == {
        "p50": 501, "p90": 901, "p99": 991, "p99.9": 1000, "max": 1000
    }  # fmt: skip
    assert percentiles(array("d")) == {}


def test_one_is_singular() -> None:
    assert [count_of(number, "callback") for number in (0, 1, 2)] == [
        "0 callbacks",
        "1 callback",
        "2 callbacks",
    ]

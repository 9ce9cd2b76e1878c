"""The simulator's day: what comes out of arrivals, line and agents, and when it is sent."""

import json
from collections import Counter
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from command.cli.simulate import simulate
from command.cli.simulate_parameters import NOW, BeginOfDay
from simulator.centre import ARRIVALS, HOUR, SHIFTS, SLOTS, Visit, visits_of_a_day
from simulator.day import DayPlan, lives_of_a_day
from simulator.lives import Life

SENT_AT = 1_800_000_000_000
DAY = 24 * HOUR


def lives(plan: DayPlan, count: int = 300, seed: int = 1, **shares: float) -> list[Life]:
    return list(lives_of_a_day(plan, count, seed=seed, run="run", now=SENT_AT, **shares))


def times(day: list[Life]) -> list[int]:
    return [callback.at for life in day for callback in life.callbacks]


def abandoned(visits: list[Visit]) -> int:
    events = [{happening.event for happening in visit.happenings} for visit in visits]
    return sum("TransferringToHumanWait" in e and "TransferToHumanSuccess" not in e for e in events)


def test_every_session_ends() -> None:
    ends = {life.expectation and life.expectation.state for life in lives(DayPlan())}
    assert ends == {"ENDED"}


def test_the_same_seed_is_the_same_day_and_another_seed_another() -> None:
    assert lives(DayPlan()) == lives(DayPlan())
    assert lives(DayPlan())[0] != lives(DayPlan(), seed=2)[0]


def test_arrivals_follow_the_curve_of_a_day() -> None:
    hours = Counter(v.happenings[0].at // HOUR for v in visits_of_a_day(1, 4_000, 20))
    busiest, quietest = ARRIVALS.index(max(ARRIVALS)), ARRIVALS.index(min(ARRIVALS))
    assert hours[busiest] > 10 * hours[quietest]


def test_with_fewer_agents_more_visitors_give_up() -> None:
    few, enough, many = (visits_of_a_day(1, 2_000, agents) for agents in (5, 10, 40))
    assert abandoned(few) > 2 * abandoned(enough) > 0
    assert abandoned(many) == 0


def test_each_shift_has_an_agent_however_few_there_are() -> None:
    joined = {
        each.at // HOUR
        for visit in visits_of_a_day(1, 600, 3)
        for each in visit.happenings
        if each.event == "TransferToHumanSuccess"
    }
    assert joined >= set(range(SHIFTS[0][0] // HOUR, SHIFTS[1][1] // HOUR))


def test_no_agent_has_more_sessions_at_once_than_slots() -> None:
    loads: Counter[str] = Counter()
    for _, agent, change in sorted(_changes(visits_of_a_day(1, 2_000, 8))):
        loads[agent] += change
        assert loads[agent] <= SLOTS


def _changes(visits: list[Visit]) -> Iterator[tuple[int, str, int]]:
    """Yield when an agent takes a session or is rid of one; of two at a time, the latter first."""
    for visit in visits:
        has = ""
        for each in visit.happenings:
            takes = each.event in ("TransferToHumanSuccess", "AgentForward")
            if has and (takes or each.event == "SessionEnd"):
                yield each.at, has, -1
                has = ""
            if takes:
                has = each.agent
                yield each.at, has, +1


def test_users_come_back_within_the_day() -> None:
    users = Counter(
        life.expectation.client_user_id for life in lives(DayPlan()) if life.expectation
    )
    assert max(users.values()) > 1


def test_a_day_ends_when_the_run_ends() -> None:
    at_once, slowly = times(lives(DayPlan())), times(lives(DayPlan(speed=60)))
    assert max(at_once) == SENT_AT
    takes = (max(at_once) - min(at_once)) / 60
    assert max(slowly) == pytest.approx(SENT_AT + takes, abs=2)
    assert max(slowly) - min(slowly) == max(at_once) - min(at_once)


def test_a_day_can_have_a_midnight_of_its_own() -> None:
    begin = SENT_AT - 30 * DAY
    found = times(lives(DayPlan(begin=begin)))
    assert begin <= min(found) < max(found) < begin + 1.1 * DAY


def test_a_day_in_quick_motion_happens_from_now_on() -> None:
    found = times(lives(DayPlan(speed=600, is_compressed=True)))
    assert min(found) >= SENT_AT
    assert max(found) - SENT_AT < 1.1 * DAY / 600


def test_now_is_amid_a_live_day() -> None:
    found = times(lives(DayPlan(is_live=True)))
    assert sum(at < SENT_AT for at in found) > len(found) / 8
    assert sum(at > SENT_AT for at in found) > len(found) / 8


def test_no_two_events_of_a_session_happen_at_one_time_however_quick_the_motion() -> None:
    for life in lives(DayPlan(speed=100_000, is_compressed=True)):
        at = [json.loads(callback.body)["EventTime"] for callback in life.callbacks]
        assert len(set(at)) == len(at)


@pytest.mark.parametrize(
    ("text", "begin"),
    [
        ("2026-03-01", 1_772_323_200_000),
        ("2026-03-01T00:00+08:00", 1_772_294_400_000),
        ("now", NOW),
    ],
)
def test_a_midnight_is_a_time_with_or_without_a_zone(text: str, begin: int) -> None:
    assert BeginOfDay().convert(text, None, None) == begin


@pytest.mark.parametrize("text", ["", "tomorrow", "1960-01-01", "2026-13-01"])
def test_another_midnight_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"neither a time|before 1970"):
        BeginOfDay().convert(text, None, None)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--speed 60", "belong to --day"),
        ("--agents 3", "belong to --day"),
        ("--begin now", "belong to --day"),
        ("--live", "belong to --day"),
        ("--day --live --speed 60", "neither a --speed"),
        ("--day --live --begin now", "neither a --speed"),
        ("--day --rate 5", "not a --rate"),
        ("--day --begin now", "needs a --speed"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: str, complaint: str) -> None:
    answer = CliRunner().invoke(simulate, ["http://127.0.0.1:1", *options.split()])
    assert answer.exit_code == 2
    assert complaint in answer.output

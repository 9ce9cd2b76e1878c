"""The lives of a day at a contact centre, at real times."""

from collections.abc import Callable, Iterator, Sequence

import msgspec

from simulator.callbacks import CallbackWriter, Happening
from simulator.centre import HOUR, VISITS_PER_AGENT, Visit, visits_of_a_day
from simulator.lives import Life, life_of, session_id_of

LEAST_AGENTS = 3

MIDNIGHT_AGO = 21 * HOUR // 2
"""Milliseconds since the midnight of a live day, which is busiest around now."""


class DayPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A day to simulate.

    Attributes:
        agents: at work over the day; None for a number that is just about enough.
        speed: simulated seconds per second; None for as fast as the service answers.
        begin: Unix time of the day's midnight, ms. None: such that the day ends with the run.
        is_compressed: events happen when they are sent, `speed` times as close together.
        is_live: events of the past are sent at once, others when they happen.
    """

    agents: int | None = None
    speed: float | None = None
    begin: int | None = None
    is_compressed: bool = False
    is_live: bool = False

    @property
    def sending_speed(self) -> float | None:
        """Seconds of event time that are sent in a second."""
        return 1 if self.is_compressed or self.is_live else self.speed


def lives_of_a_day(
    plan: DayPlan,
    count: int,
    *,
    seed: int,
    run: str,
    now: int,
    impossible: float = 0,
    malformed: float = 0,
) -> Iterator[Life]:
    """Yield the lives of a day, ascending by the time at which they begin.

    Args:
        plan: of the day.
        count: number of lives.
        seed: of all that is random; the same seed is the same day.
        run: makes session ids unique.
        now: Unix time in milliseconds.
        impossible: share of impossible callbacks, as in `make_lives`.
        malformed: share of malformed callbacks, as in `make_lives`.
    """
    agents = plan.agents or max(LEAST_AGENTS, round(count / VISITS_PER_AGENT))
    visits = visits_of_a_day(seed, count, agents)
    clock = _clock(plan, visits, now)
    for number, visit in enumerate(visits):
        writer = CallbackWriter(visit.random, session_id_of(seed, run, number), visit.user)
        legal = list(_at_real_times(visit.happenings, clock))
        yield life_of(visit.random, writer, legal, impossible, malformed)


def _clock(plan: DayPlan, visits: Sequence[Visit], now: int) -> Callable[[int], int]:
    """Return the function from milliseconds since midnight to Unix time in milliseconds."""
    first = visits[0].happenings[0].at
    last = max(visit.happenings[-1].at for visit in visits)
    speed, begin = plan.speed, plan.begin
    if plan.is_live:
        return lambda at: now - MIDNIGHT_AGO + at
    if speed and plan.is_compressed:
        return lambda at: now + round((at - first) / speed)
    if begin is None:
        takes = round((last - first) / speed) if speed else 0
        begin = now + takes - last
    return lambda at: begin + at


def _at_real_times(
    happenings: Sequence[Happening], clock: Callable[[int], int]
) -> Iterator[Happening]:
    before = 0
    for happening in happenings:
        before = max(before + 1, clock(happening.at))  # two at one time would have another order
        yield msgspec.structs.replace(happening, at=before)

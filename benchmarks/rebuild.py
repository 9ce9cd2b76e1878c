"""A view built anew from a journal of a million callbacks, by the real follower.

The callbacks are those of the simulator's lives, some 800 sessions open at once. Once, because it
is long.
"""

from collections.abc import Iterator

from benchmarks import populations
from benchmarks.measurement import Goal, Measurement, Population

NAME = "rebuild"
RUNS = 1
OURS = "follower"
COUNT, QUICK_COUNT = 1_000_000, 30_000
SECONDS = f"seconds to rebuild {COUNT:,} callbacks"
GOALS = (Goal(what=SECONDS, subject=OURS, bound=60, at_most=True),)


def needs(*, quick: bool) -> list[Population]:
    """The journal alone."""
    return [Population("traffic", QUICK_COUNT if quick else COUNT, with_view=False)]


def measure(run: int, *, quick: bool) -> Iterator[Measurement]:
    """One rebuild."""
    (population,) = needs(quick=quick)
    followed = populations.follow(populations.data_dir(population))
    if population.count == COUNT:
        yield Measurement(NAME, SECONDS, OURS, followed.seconds, "s", run)
    rate = population.count / followed.seconds
    yield Measurement(NAME, "callbacks/s of a rebuild", OURS, rate, "1/s", run)
    yield Measurement(NAME, "peak memory of a rebuild", OURS, followed.peak_mb, "MB", run)

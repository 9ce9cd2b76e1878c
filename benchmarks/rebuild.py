"""A view built anew by the real follower, from the journal of a million sessions.

Most of these have only begun, so nearly every callback is of a session that is not at hand. Once,
because it is long.
"""

from collections.abc import Iterator

from benchmarks import populations
from benchmarks.measurement import Goal, Measurement, Population

NAME = "rebuild"
RUNS = 1
OURS = "follower"
SESSIONS, QUICK_SESSIONS = 1_000_000, 5_000
MILLION = "seconds to rebuild a million callbacks"
GOALS = (Goal(what=MILLION, subject=OURS, bound=60, at_most=True),)


def needs(*, quick: bool) -> list[Population]:
    """The largest that there is."""
    return [Population("sessions", QUICK_SESSIONS if quick else SESSIONS)]


def measure(run: int, *, quick: bool) -> Iterator[Measurement]:
    """One rebuild: the one that made the population's view."""
    (population,) = needs(quick=quick)
    followed = populations.followed(population)
    rate = followed.callbacks / followed.seconds
    if not quick:
        yield Measurement(NAME, MILLION, OURS, 1e6 / rate, "s", run)
    yield Measurement(NAME, "callbacks/s of a rebuild", OURS, rate, "1/s", run)
    yield Measurement(NAME, "callbacks of the rebuild", OURS, followed.callbacks, "", run)
    yield Measurement(NAME, "peak memory of a rebuild", OURS, followed.peak_mb, "MB", run)

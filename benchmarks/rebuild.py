"""A view rebuilt by the real follower from a journal; the times are for a million callbacks.

Of a million sessions most have only begun: nearly every callback is of a session that is not
cached, and makes a new row. Ordinary traffic is that of the simulator's lives: the feed that
`subscribe` reads, a fifth of a million callbacks, with five times its time. One run, because it is
long.
"""

import os
import shutil
from collections.abc import Iterator

from benchmarks import populations, subscribe
from benchmarks.measurement import Goal, Measurement, Population
from benchmarks.populations import Followed
from benchmarks.work import directory

NAME = "rebuild"
RUNS = 1
SHORT, TRAFFIC = "a million sessions", "ordinary traffic"
SESSIONS, QUICK_SESSIONS = 1_000_000, 5_000
MILLION = "seconds to rebuild a million callbacks"
GOALS = (
    Goal(what=MILLION, subject=SHORT, bound=60, at_most=True),
    Goal(what=MILLION, subject=TRAFFIC, bound=60, at_most=True),
)


def needs(*, quick: bool) -> list[Population]:
    """Return the largest population, and the one that `subscribe` reads."""
    sessions = Population("sessions", QUICK_SESSIONS if quick else SESSIONS)
    return [sessions, *subscribe.needs(quick=quick)]


def measure(run: int, *, quick: bool) -> Iterator[Measurement]:
    """Yield the rebuild of the large population's view, and one of the other, alone."""
    sessions, traffic = needs(quick=quick)
    for subject, followed in (
        (SHORT, populations.followed(sessions)),
        (TRAFFIC, _rebuild(traffic)),
    ):
        if not quick:
            yield Measurement(NAME, MILLION, subject, 1e6 / followed.rate, "s", run)
        yield Measurement(NAME, "callbacks/s of a rebuild", subject, followed.rate, "1/s", run)
        yield Measurement(NAME, "callbacks of the rebuild", subject, followed.callbacks, "", run)
        yield Measurement(NAME, "peak memory of a rebuild", subject, followed.peak_mb, "MB", run)


def _rebuild(population: Population) -> Followed:
    source = populations.data_dir(population)
    with directory("rebuild") as data_dir:
        shutil.copy(source / "journal.db", data_dir)  # its writer has ended
        os.sync()  # otherwise the copy would be written to disk while it is read
        return populations.follow(data_dir)

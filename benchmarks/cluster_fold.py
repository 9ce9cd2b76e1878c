"""A view built by a follower from JetStream, and from SQLite: the same callbacks, by the clock.

Ordinary traffic. The nats-server is a process of its own, with one replica of the stream.
"""

from collections.abc import Iterator

from benchmarks import callbacks, nats, populations
from benchmarks.measurement import Goal, Measurement
from benchmarks.work import directory

NAME = "cluster_fold"
RUNS = 3
OURS, REFERENCE = "from JetStream", "from SQLite"
RATE = "callbacks/s of a rebuild"
GOALS = (Goal(what=RATE, subject=OURS, of=REFERENCE, bound=0.9),)

COUNT, QUICK_COUNT = 200_000, 10_000


def measure(run: int, *, quick: bool) -> Iterator[Measurement]:
    """Measure both in turn."""
    entries = list(callbacks.traffic(QUICK_COUNT if quick else COUNT))
    with nats.running(1) as servers, directory("fold") as on_nats, directory("fold") as on_sqlite:
        nats.write_journal(servers, entries)
        populations.write_journal(on_sqlite, entries)
        for subject, followed in (
            (OURS, populations.follow(on_nats, servers.urls)),
            (REFERENCE, populations.follow(on_sqlite)),
        ):
            yield Measurement(NAME, RATE, subject, followed.rate, "1/s", run)

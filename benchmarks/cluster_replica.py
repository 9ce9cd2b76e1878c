"""Time until a new replica of the service is complete: by replay, and by a snapshot.

`desk service` is started on an empty directory, with a million callbacks of ordinary traffic in the
journal on one nats-server. `python -m benchmarks.cluster_replica COUNT` takes as many.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from benchmarks import callbacks, nats
from benchmarks.measurement import Goal, Measurement
from benchmarks.nats import Nats
from benchmarks.populations import await_complete
from benchmarks.work import desk, directory
from journal.jetstream import JetStreamReader
from journal.jetstream_objects import ObjectStore
from service.snapshots.publisher import Publisher
from service.snapshots.stored import Snapshot, Snapshots
from service.view.store import locate

NAME = "cluster_replica"
RUNS = 1
SNAPSHOT, REFERENCE = "by snapshot", "by replay"
TIME = "seconds until a new replica is complete"
GOALS = (Goal(what=TIME, subject=SNAPSHOT, of=REFERENCE, bound=0.2, at_most=True),)

COUNT, QUICK_COUNT = 1_000_000, 10_000

WITHIN = 600.0
"""Seconds that a new replica may take."""


def measure(run: int, *, quick: bool) -> Iterator[Measurement]:
    """Measure with as many callbacks as are for a report."""
    return _measure(run, QUICK_COUNT if quick else COUNT)


def _measure(run: int, count: int) -> Iterator[Measurement]:
    """Measure the first replica, publish a snapshot of its view, and measure a second one."""
    with nats.running(1) as servers, directory("first") as first, directory("second") as second:
        nats.write_journal(servers, callbacks.traffic(count))
        yield Measurement(NAME, TIME, REFERENCE, _complete_after(first, servers), "s", run)
        began = time.monotonic()
        snapshot = _publish(first, servers)
        published = time.monotonic() - began
        yield Measurement(NAME, TIME, SNAPSHOT, _complete_after(second, servers), "s", run)
        yield Measurement(NAME, "publishing a snapshot", SNAPSHOT, published, "s", run)
        yield Measurement(NAME, "view", SNAPSHOT, snapshot.size / 1e6, "MB", run)
        yield Measurement(NAME, "snapshot", SNAPSHOT, snapshot.stored.size / 1e6, "MB", run)


def _complete_after(data_dir: Path, servers: Nats) -> float:
    """Start a service on an empty directory. Return the seconds until its view is complete."""
    began = time.monotonic()
    with desk("service", data_dir=data_dir, within=WITHIN, settings=servers.settings):
        end, _ = await_complete(locate(data_dir))
        return end - began


def _publish(data_dir: Path, servers: Nats) -> Snapshot:
    options = nats.options(servers.urls)
    objects = ObjectStore(options.access, options.stream)
    with (
        closing(JetStreamReader(options)) as journal,
        closing(Snapshots(objects, journal, data_dir)) as snapshots,
    ):
        return Publisher(snapshots).publish(lambda *_: None)


if __name__ == "__main__":
    for each in _measure(1, int(sys.argv[1])):
        print(f"{each.subject}: {each.what} {each.value:,.1f} {each.unit}")

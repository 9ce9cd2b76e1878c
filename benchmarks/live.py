"""Live events to 1, 100 and 1,000 subscribers of one worker, at 100 callbacks per second.

`desk service`; the callbacks are appended to its journal on schedule. The latency is the time from
just before the append (which syncs the disk) to the arrival of each event at each subscriber. All
subscribers are in one process. A gap in any stream ends the measurement.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from benchmarks import callbacks, populations
from benchmarks.measurement import Goal, Measurement
from benchmarks.processes import cpu_seconds, roles
from benchmarks.subscribers import Arrival
from benchmarks.work import child, desk, directory
from journal.sqlite import SqliteWriter

NAME = "live"
OURS = "desk"
RATE = 100
"""Callbacks per second."""

AUDIENCES, QUICK_AUDIENCES = (1, 100, 1_000), (1, 20)
SECONDS, QUICK_SECONDS = 2.5, 1.0

ARRIVE_WITHIN = 1.0
"""Seconds that the last events have to arrive before the subscribers are stopped."""

APPEND_WITHIN = 5.0

EARLIER = 1_000
"""Sessions that exist before."""


def figure(percentile: str, subscribers: int) -> str:
    """Return the name of a figure."""
    return f"{percentile} to {subscribers:,} subscribers"


GOALS = (Goal(what=figure("p99", 1_000), subject=OURS, bound=250, at_most=True),)


def measure(run: int, *, quick: bool) -> Iterator[Measurement]:
    """Measure each number of subscribers in turn, on the same service."""
    with directory("live") as data_dir:
        populations.write_journal(data_dir, callbacks.begins(EARLIER))
        populations.follow(data_dir)
        with (
            desk("service", data_dir=data_dir) as service,
            closing(SqliteWriter(data_dir / "journal.db")) as journal,
        ):
            worker = roles(service.pid)["rpc worker"]
            for subscribers in QUICK_AUDIENCES if quick else AUDIENCES:
                file = data_dir / f"arrivals-{subscribers}"
                command = (sys.executable, "-m", "benchmarks.subscribers",
                           service.said["grpc"], str(subscribers), str(file))  # fmt: skip
                with child(*command, is_ready=_live):
                    before, began = cpu_seconds(worker), time.monotonic()
                    sent = _append(journal, QUICK_SECONDS if quick else SECONDS)
                    busy = (cpu_seconds(worker) - before) / (time.monotonic() - began)
                    time.sleep(ARRIVE_WITHIN)
                yield from _measurements(_latencies(file, sent, subscribers), subscribers, run)
                what = f"worker's load with {subscribers:,} subscribers"
                yield Measurement(NAME, what, OURS, busy * 100, "% of a core", run)


def _live(line: str) -> bool | None:
    return True if line.startswith('{"live"') else None


def _append(journal: SqliteWriter, seconds: float) -> dict[int, float]:
    """Append on schedule. Return the start time of each append by revision."""
    sent = {}
    begin = time.monotonic()
    start = callbacks.START + round(begin * 1000)  # other sessions each time
    for number, entry in enumerate(callbacks.begins(round(seconds * RATE), start=start)):
        time.sleep(max(0.0, begin + number / RATE - time.monotonic()))
        now = time.monotonic()
        sent[journal.append(entry, timeout=APPEND_WITHIN).revision] = now
    return sent


def _latencies(file: Path, sent: dict[int, float], subscribers: int) -> list[float]:
    """Return the seconds from append to arrival of every event at every subscriber, ascending."""
    if not file.exists():
        raise RuntimeError("a subscriber missed something")
    arrivals = msgspec.msgpack.decode(file.read_bytes(), type=list[Arrival])
    latencies = sorted(
        at - sent[revision] for at, first, last in arrivals for revision in range(first, last + 1)
    )
    if len(latencies) != len(sent) * subscribers:
        raise RuntimeError(f"{len(latencies)} of {len(sent) * subscribers} arrivals")
    return latencies


def _measurements(latencies: list[float], subscribers: int, run: int) -> Iterator[Measurement]:
    for percentile, share in (("p50", 0.5), ("p99", 0.99)):
        value = latencies[int(share * len(latencies))] * 1000
        yield Measurement(NAME, figure(percentile, subscribers), OURS, value, "ms", run)

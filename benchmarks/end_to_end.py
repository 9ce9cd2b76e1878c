"""From an HTTP request sent to its event at a gRPC subscriber, beside the acknowledgement alone.

The whole system runs as `desk serve`. Callbacks are sent by the clock from a process of its own;
each says in its RequestID when it was sent, and the subscriber, another process, compares.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

from desk.client import Client

from benchmarks.driver import drive
from benchmarks.measurement import Goal, Measurement, percentile
from benchmarks.work import desk, directory

NAME = "end_to_end"
REFERENCE = "the acknowledgement alone"
OURS = "at a subscriber"
RATES = (100, 1000)
SECONDS, QUICK_SECONDS = 3.0, 1.0

ARRIVED_WITHIN = 20.0
"""Seconds after the last acknowledgement in which the last event must have come."""


def _what(figure: str, rate: int) -> str:
    return f"{figure} at {rate:,}/s"


GOALS = (
    Goal(what=_what("p50", 1000), subject=OURS, bound=8, at_most=True),
    Goal(what=_what("p99", 1000), subject=OURS, bound=40, at_most=True),
)


def measure(run: int, *, quick: bool) -> Iterator[Measurement]:
    """Both from the same requests."""
    seconds = QUICK_SECONDS if quick else SECONDS
    with directory("serve") as data_dir, desk("serve", data_dir=data_dir) as ready:
        port, target = int(ready.said["http"].rpartition(":")[2]), ready.said["grpc"]
        asyncio.run(_drive_and_subscribe(port, target, 500, 0.5))
        for rate in RATES:
            report, latencies = asyncio.run(_drive_and_subscribe(port, target, rate, seconds))
            for percent in (50, 99):
                what = _what(f"p{percent}", rate)
                ack = report[f"from_sent_p{percent}_ms"]
                event = percentile(latencies, percent)
                yield Measurement(NAME, what, REFERENCE, ack, "ms", run)
                yield Measurement(NAME, what, OURS, event, "ms", run)


async def _drive_and_subscribe(
    port: int, target: str, rate: float, seconds: float
) -> tuple[dict[str, Any], list[float]]:
    """Return what the driver reports, and each event's latency in ms."""
    live, latencies = asyncio.Event(), []
    total = int(rate * seconds)
    subscriber = asyncio.create_task(_subscribe(target, total, live, latencies))
    await asyncio.wait_for(live.wait(), 30)
    report = await asyncio.to_thread(drive, port, rate, seconds)
    if report["refused"] or report["answered"] < total:
        raise RuntimeError(f"not everything was acknowledged: {report}")
    await asyncio.wait_for(subscriber, ARRIVED_WITHIN)
    return report, latencies


async def _subscribe(target: str, total: int, live: asyncio.Event, latencies: list[float]) -> None:
    async with Client(target) as client, aclosing(client.subscribe()) as updates:
        async for update in updates:
            now = time.monotonic_ns()
            sent = [int(record.event.request_id) for record in update.records]
            latencies += [(now - each) / 1e6 for each in sent]
            if update.caught_up:
                live.set()
            if len(latencies) >= total:
                return

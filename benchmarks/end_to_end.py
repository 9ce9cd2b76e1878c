"""Latency from a callback to its event at a gRPC subscriber, and to its acknowledgement.

The whole system runs as `desk serve`; and as `desk gateway` and `desk service`, with the journal on
three nats-servers that sync before they answer. One process sends callbacks on schedule, with the
send time as RequestID; another one subscribes and compares.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

from benchmarks import nats
from benchmarks.driver import drive
from benchmarks.measurement import Goal, Measurement, percentile
from benchmarks.work import desk, directory
from desk.client import Client

NAME = "end_to_end"
REFERENCE = "the acknowledgement alone"
OURS = "at a subscriber"
CLUSTER = ", on NATS"
"""Added to the names of both."""
RATES = (100, 1000)
SECONDS, QUICK_SECONDS = 3.0, 1.0

ARRIVED_WITHIN = 20.0
"""Seconds from the last acknowledgement until the last event must have arrived."""


def what(figure: str, rate: int) -> str:
    return f"{figure} at {rate:,}/s"


GOALS = (
    Goal(what=what("p50", 1000), subject=OURS, bound=8, at_most=True),
    Goal(what=what("p99", 1000), subject=OURS, bound=40, at_most=True),
)


def measure(run: int, *, quick: bool) -> Iterator[Measurement]:
    """Measure both with the same requests."""
    seconds = QUICK_SECONDS if quick else SECONDS
    with directory("serve") as data_dir, desk("serve", data_dir=data_dir) as ready:
        yield from _measure(ready.said["http"], ready.said["grpc"], run, seconds)
    with (
        nats.running(3) as servers,
        directory("gateway") as gateways,
        directory("service") as services,
        desk("gateway", data_dir=gateways, settings=servers.settings) as gateway,
        desk("service", data_dir=services, settings=servers.settings) as service,
    ):
        yield from _measure(gateway.said["http"], service.said["grpc"], run, seconds, CLUSTER)


def _measure(
    http: str, target: str, run: int, seconds: float, suffix: str = ""
) -> Iterator[Measurement]:
    port = int(http.rpartition(":")[2])
    asyncio.run(_drive_and_subscribe(port, target, 500, 0.5))
    for rate in RATES:
        report, latencies = asyncio.run(_drive_and_subscribe(port, target, rate, seconds))
        for percent in (50, 99):
            figure = what(f"p{percent}", rate)
            ack = report[f"from_sent_p{percent}_ms"]
            event = percentile(latencies, percent)
            yield Measurement(NAME, figure, REFERENCE + suffix, ack, "ms", run)
            yield Measurement(NAME, figure, OURS + suffix, event, "ms", run)


async def _drive_and_subscribe(
    port: int, target: str, rate: float, seconds: float
) -> tuple[dict[str, Any], list[float]]:
    """Return the driver's report and the latency of each event in ms."""
    live = asyncio.Event()
    latencies: list[float] = []
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

"""A closed loop of unary calls from one asyncio client, and its figures."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from statistics import median

import msgspec

from benchmarks.processes import cpu_seconds

IN_FLIGHT = 16
"""Calls in flight at once."""

SLICES = 5
"""Turns of each subject, so that a slow phase of the machine affects all of them."""

Call = Callable[[], Awaitable[object]]


class Load(msgspec.Struct):
    """The figures of a closed loop.

    Attributes:
        seconds: its duration.
        cpu: processor time of the server, seconds.
        latencies: of each call, seconds.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    latencies: list[float] = []

    @property
    def rate(self) -> float:
        """Calls per second."""
        return len(self.latencies) / self.seconds

    @property
    def cpu_us(self) -> float:
        """Processor time of the server per call, microseconds."""
        return self.cpu / len(self.latencies) * 1e6

    def percentile_ms(self, share: float) -> float:
        """Nearest rank, ms."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


async def in_turn(calls: dict[str, Call], *, seconds: float, server: int) -> dict[str, Load]:
    """Call each in turn, `seconds` in all for each, `IN_FLIGHT` calls at once.

    `server` is the pid of the process that answers.
    """
    loads = {name: Load() for name in calls}
    for call in calls.values():
        await _loop(call, Load(), 0.1)  # connections and caches
    for _ in range(SLICES):
        for name, call in calls.items():
            before = cpu_seconds(server)
            await _loop(call, loads[name], seconds / SLICES)
            loads[name].cpu += cpu_seconds(server) - before
    return loads


async def medians_ms(calls: Sequence[Call], *, times: int) -> list[float]:
    """Return the median latency of each, one call at a time, by turns."""
    latencies: list[list[float]] = [[] for _ in calls]
    for _ in range(times):
        for call, taken in zip(calls, latencies, strict=True):
            began = time.perf_counter()
            await call()
            taken.append(time.perf_counter() - began)
    return [median(taken) * 1000 for taken in latencies]


async def _loop(call: Call, load: Load, seconds: float) -> None:
    began = time.perf_counter()
    end = began + seconds
    await asyncio.gather(*(_ask(call, load, end) for _ in range(IN_FLIGHT)))
    load.seconds += time.perf_counter() - began


async def _ask(call: Call, load: Load, end: float) -> None:
    while (began := time.perf_counter()) < end:
        await call()
        load.latencies.append(time.perf_counter() - began)

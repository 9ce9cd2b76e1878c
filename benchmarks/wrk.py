"""Closed loops of callbacks by wrk. Each request is another callback."""

import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.measurement import Measurement

MISSING = "" if shutil.which("wrk") else "wrk is not installed"
"""The reason for which nothing can be measured, or ""."""

WARM_UP = 1
"""Seconds in which connections are made and caches filled."""

RATE, P50, P99, P999 = "acknowledgements", "p50", "p99", "p99.9"

Kept = Callable[[], int]
"""Returns the number of stored callbacks."""

SCRIPT = Path(__file__).parent / "callbacks.lua"


class Load(msgspec.Struct):
    """The report of one wrk."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    errors: int


def drive(ports: Sequence[int], *, connections: int, seconds: int, kept: Kept | None) -> list[Load]:
    """Load servers at once, each over its share of the connections; `kept` is of all of them.

    Raises:
        RuntimeError: requests failed, or acknowledged callbacks are not stored.
    """
    before = kept() if kept else 0
    share = connections // len(ports)
    with ThreadPoolExecutor(len(ports)) as threads:
        warm_up = list(threads.map(partial(_wrk, share, WARM_UP), ports))
        loads = list(threads.map(partial(_wrk, share, seconds), ports))
    if errors := sum(each.errors for each in loads):
        raise RuntimeError(f"{errors} requests failed")
    acknowledged = sum(each.requests for each in (*warm_up, *loads))
    if kept and (missing := acknowledged - (kept() - before)) > 0:
        raise RuntimeError(f"{missing} callbacks were acknowledged and are not there")
    return loads


def measurements(
    loads: Sequence[Load], benchmark: str, subject: str, run: int, *, of: str = ""
) -> Iterator[Measurement]:
    """Yield the sum of the rates, and the greatest latencies; `of` says of which kind of load."""
    yield Measurement(benchmark, RATE + of, subject, rate(loads), "1/s", run)
    for what, key in ((P50, "p50_ms"), (P99, "p99_ms"), (P999, "p999_ms")):
        value = max(getattr(each, key) for each in loads)
        yield Measurement(benchmark, what + of, subject, value, "ms", run)


def rate(loads: Sequence[Load]) -> float:
    """Return the sum of the rates."""
    return sum(each.requests / each.seconds for each in loads)


def _wrk(connections: int, seconds: int, port: int) -> Load:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(SCRIPT),
               f"http://127.0.0.1:{port}", "--", uuid.uuid4().hex]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    report = next(line for line in done.stdout.splitlines() if line.startswith("{"))
    return msgspec.json.decode(report, type=Load)

"""Acknowledgements at a given rate, with the whole system running: `desk serve`.

An open loop: callbacks are sent on schedule, and latency counts from the schedule. The reference is
the empty handler of `acknowledgements` at the same rate. The lag of the view is measured as well.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.driver import drive
from benchmarks.lag import Gauge, gauge
from benchmarks.measurement import Goal, Measurement
from benchmarks.work import desk, directory, peer

NAME = "open_loop"
REFERENCE = "empty handler"
OURS = "desk serve"
RATES = (500, 1000, 2000, 4000)
SECONDS, QUICK_SECONDS = 2.0, 1.0

EVERY = 0.05
"""Seconds between two measurements of the lag."""

CAUGHT_UP_WITHIN = 60.0
"""Seconds that the follower may take to catch up between two rates."""


def _p99(rate: int) -> str:
    return f"p99 at {rate:,}/s"


def _lag(rate: int) -> str:
    return f"greatest lag at {rate:,}/s"


def _refused(rate: int) -> str:
    return f"refused or unanswered at {rate:,}/s"


GOALS = (
    Goal(what=_refused(2000), subject=OURS, bound=0, at_most=True, in_every_run=True),
    Goal(what=_p99(2000), subject=OURS, bound=20, at_most=True),
    Goal(what=_lag(2000), subject=OURS, bound=1000, at_most=True, in_every_run=True),
)


def measure(run: int, *, quick: bool) -> Iterator[Measurement]:
    """Measure both at each rate, in turn."""
    seconds = QUICK_SECONDS if quick else SECONDS
    with (
        peer("empty_falcon") as empty,
        directory("serve") as data_dir,
        desk("serve", data_dir=data_dir) as ours,
    ):
        http, grpc_target = int(ours.said["http"].rpartition(":")[2]), ours.said["grpc"]
        drive(empty.said["port"], 500, 0.5)
        drive(http, 500, 0.5)
        for rate in RATES:
            yield from _figures(REFERENCE, drive(empty.said["port"], rate, seconds), rate, run)
            with _watching(grpc_target, data_dir) as lags:
                report = drive(http, rate, seconds)
            yield from _figures(OURS, report, rate, run)
            yield Measurement(NAME, _lag(rate), OURS, max(lags, default=0), "ms", run)


def _figures(subject: str, report: dict[str, Any], rate: int, run: int) -> Iterator[Measurement]:
    unhappy = report["refused"] + report["total"] - report["answered"]
    yield Measurement(NAME, f"p50 at {rate:,}/s", subject, report["p50_ms"], "ms", run)
    yield Measurement(NAME, _p99(rate), subject, report["p99_ms"], "ms", run)
    yield Measurement(NAME, _refused(rate), subject, unhappy, "", run)


@contextmanager
def _watching(target: str, data_dir: Path) -> Iterator[list[float]]:
    """Collect the lag in ms inside the block. At its end, wait until the follower has caught up."""
    lags: list[float] = []
    over = threading.Event()
    with gauge(target, data_dir) as lag:

        def look() -> None:
            while not over.wait(EVERY):
                lags.append(lag.look().ms)

        with ThreadPoolExecutor(1) as thread:
            looking = thread.submit(look)
            try:
                yield lags
            finally:
                over.set()
            looking.result()  # a missing measurement may have been the highest
        _await_caught_up(lag, lags)


def _await_caught_up(lag: Gauge, lags: list[float]) -> None:
    give_up = time.monotonic() + CAUGHT_UP_WITHIN
    while behind := lag.look().ms:
        lags.append(behind)
        if time.monotonic() > give_up:
            raise TimeoutError(f"the follower did not catch up within {CAUGHT_UP_WITHIN} s")
        time.sleep(EVERY)

"""Memory and lag of a running `desk serve` over time, sampled in a thread, and their plot."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import grpc
import msgspec

from benchmarks.lag import Gauge, gauge
from benchmarks.processes import roles, rss_mb
from benchmarks.work import Ready
from journal.errors import JournalError

EVERY = 1.0
"""Seconds between two samples."""


class Sample(msgspec.Struct, frozen=True):
    """Memory and lag at one moment.

    Attributes:
        at: seconds since the first sample.
        memory_mb: by process.
        lag_ms: age of the first callback that the view lacked.
        subscribers: open streams.
    """

    at: float
    memory_mb: dict[str, float]
    lag_ms: int
    subscribers: int


class Sampler:
    """Samples from the beginning to the end of a `with` block.

    Attributes:
        samples: so far.
        problem: the reason why sampling ended early; empty if it did not.
    """

    def __init__(self, serve: Ready, data_dir: Path) -> None:
        self.samples: list[Sample] = []
        self.problem = ""
        self._serve = serve
        self._data_dir = data_dir
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def most_lag_ms(self) -> int:
        """Return the highest lag in ms."""
        return max((sample.lag_ms for sample in self.samples), default=0)

    def growth(self) -> dict[str, tuple[float, float]]:
        """Return the memory of each process in the first and in the last sample, MB."""
        first, last = self.samples[0].memory_mb, self.samples[-1].memory_mb
        return {role: (first.get(role, 0.0), memory) for role, memory in last.items()}

    def _run(self) -> None:
        try:
            self._sample_until_done()
        except (grpc.RpcError, JournalError, OSError) as error:
            self.problem = f"cannot look at the service: {error!r}"

    def _sample_until_done(self) -> None:
        began = time.monotonic()
        with gauge(self._serve.said["grpc"], self._data_dir) as lag:
            while True:
                self.samples.append(self._sample(lag, time.monotonic() - began))
                if self._done.wait(EVERY):
                    return

    def _sample(self, lag: Gauge, at: float) -> Sample:
        behind, status = lag.look()
        return Sample(
            at=round(at, 2),
            memory_mb={role: round(rss_mb(pid), 1) for role, pid in roles(self._serve.pid).items()},
            lag_ms=behind,
            subscribers=status.subscribers,
        )


def plot(samples: Sequence[Sample], file: Path) -> bool:
    """Draw memory and lag over time as SVG. Return False without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("svg")
    from matplotlib import pyplot

    figure, (memory, lag) = pyplot.subplots(2, sharex=True, figsize=(10, 6), layout="constrained")
    at = [sample.at for sample in samples]
    for role in samples[0].memory_mb:
        memory.plot(at, [sample.memory_mb.get(role) for sample in samples], label=role)
    memory.set_ylabel("resident memory, MB")
    memory.set_ylim(bottom=0)
    memory.legend(fontsize=8, ncols=5)
    lag.plot(at, [sample.lag_ms for sample in samples])
    lag.set_ylabel("view behind journal, ms")
    lag.set_xlabel("seconds")
    for axis in (memory, lag):
        axis.grid(linewidth=0.3)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
    return True

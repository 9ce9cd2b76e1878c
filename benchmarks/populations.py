"""Data directories full of callbacks, made as the service makes them: journal first, then view.

They are made before the measurements: the journals side by side, each by a process of its own
(`python -m benchmarks.populations KIND COUNT DATA_DIR`), then the views one after the other. The
largest view comes last, alone: the time that a follower takes for it is a figure of its own.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import click

from benchmarks import callbacks
from benchmarks.measurement import Population
from benchmarks.processes import peak_rss_mb
from benchmarks.work import CORES, ROOT, child, new_directory
from journal.entry import NewEntry
from journal.sqlite_writer import Writer
from service.view.errors import ViewError
from service.view.reader import Reader
from service.view.store import locate

COMMIT = 4_000
"""Entries per commit: 8 values each, of 32,766 that SQLite can bind."""

CHUNK = 1024 * 1024
"""Bytes of a view read at a time."""

POLL = 0.02
"""Seconds between two looks at the view's revision."""

MADE_WITHIN = 900.0
"""Seconds that one population may take."""

KINDS: dict[str, Callable[[int], Iterator[NewEntry]]] = {
    "sessions": callbacks.short_sessions,
    "traffic": callbacks.traffic,
}
"""Entries by kind of population: short sessions, or callbacks of the simulator's lives."""


class Followed(NamedTuple):
    """The making of a view: callbacks, seconds, and the follower's peak memory in MB."""

    callbacks: int
    seconds: float
    peak_mb: float

    @property
    def rate(self) -> float:
        """Callbacks per second."""
        return self.callbacks / self.seconds


def prepare(populations: Iterable[Population]) -> None:
    """Make populations: the largest journal first, one per core at once; its view last."""
    ordered = sorted(set(populations), key=lambda each: each.count, reverse=True)
    for population in ordered:
        _begin(population)
    for population in reversed(ordered):
        followed(population)


def data_dir(population: Population) -> Path:
    """Return the directory of a population, made at the first call, kept until the end."""
    followed(population)
    return _begin(population).result()


def warmed(population: Population) -> Path:
    """Return the directory of a population, with its view in the page cache.

    A view that must be read from disk is slower, and a virtual machine may lose idle pages.
    """
    path = data_dir(population)
    chunk = bytearray(CHUNK)
    with locate(path).open("rb", buffering=0) as view:
        while view.readinto(chunk):
            pass
    return path


@cache
def followed(population: Population) -> Followed:
    """Return the figures of making a population's view, made at the first call."""
    path = _begin(population).result()
    click.echo(f"making the view of {population.count:,} {population.kind}", err=True)
    return follow(path)


@cache
def _makers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CORES)


@cache
def _begin(population: Population) -> Future[Path]:
    return _makers().submit(_make, population, new_directory(f"{population.kind}-population"))


def _make(population: Population, path: Path) -> Path:
    click.echo(f"making the journal of {population.count:,} {population.kind}", err=True)
    command = (sys.executable, "-m", "benchmarks.populations",
               population.kind, str(population.count), str(path))  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True, timeout=MADE_WITHIN)
    return path


def write_journal(data_dir: Path, entries: Iterable[NewEntry]) -> None:
    """Append entries to the journal of a directory."""
    source = iter(entries)
    with closing(Writer(data_dir / "journal.db")) as writer:
        while batch := list(islice(source, COMMIT)):
            writer.commit(batch)
            writer.checkpoint()


def follow(data_dir: Path, servers: Sequence[str] = ()) -> Followed:
    """Run a follower, in a process of its own, until the view is at the journal's head.

    The journal is in the directory, or on nats-servers.
    """
    command = (sys.executable, "-m", "benchmarks.following", str(data_dir), *servers)
    with child(*command, is_ready=_began) as follower:
        end, revision = await_complete(locate(data_dir))
        return Followed(revision, end - follower.said, peak_rss_mb(follower.pid))


def _began(line: str) -> float | None:
    return float(json.loads(line)["began"]) if line.startswith('{"began"') else None


def await_complete(view: Path) -> tuple[float, int]:
    """Wait for the complete view. Return the time (monotonic seconds) and the revision."""
    deadline = time.monotonic() + MADE_WITHIN
    while time.monotonic() < deadline:
        if revision := _complete_revision(view):
            return time.monotonic(), revision
        time.sleep(POLL)
    raise RuntimeError(f"{view} was not complete within {MADE_WITHIN:g} s")


def _complete_revision(view: Path) -> int:
    try:
        with closing(Reader(view)) as reader:
            progress = reader.progress()
            return progress.applied_revision if progress.complete else 0
    except ViewError:  # not there yet
        return 0


if __name__ == "__main__":
    write_journal(Path(sys.argv[3]), KINDS[sys.argv[1]](int(sys.argv[2])))

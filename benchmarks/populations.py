"""Data directories full of callbacks, made as the service makes them: journal first, then view."""

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import apsw

from benchmarks import callbacks
from benchmarks.processes import peak_rss_mb
from benchmarks.work import ROOT, child, new_directory
from journal.entry import NewEntry
from journal.sqlite_writer import Writer
from service.view.reader import Reader
from service.view.store import locate

COMMIT = 4_000
"""Entries per commit: 7 values each, of 32,766 that SQLite can bind."""

POLL = 0.02
"""Seconds between two looks at how far the view has come."""

FOLLOW_WITHIN = 600.0
"""Seconds that making a view may take."""


class Followed(NamedTuple):
    """What it took to make a view: seconds, and the follower's peak memory in MB."""

    seconds: float
    peak_mb: float


@cache
def sessions(count: int) -> Path:
    """A data directory with so many sessions; made once and kept until the program ends."""
    data_dir = new_directory(f"sessions-{count}")
    write_journal(data_dir, callbacks.short_sessions(count))
    project(data_dir)
    return data_dir


@cache
def traffic(count: int) -> Path:
    """A data directory with so many callbacks of realistic lives, likewise."""
    data_dir = new_directory(f"traffic-{count}")
    write_journal(data_dir, callbacks.traffic(count))
    project(data_dir)
    return data_dir


def write_journal(data_dir: Path, entries: Iterable[NewEntry]) -> None:
    """Append entries to the journal of a directory."""
    source = iter(entries)
    with closing(Writer(data_dir / "journal.db")) as writer:
        while batch := list(islice(source, COMMIT)):
            writer.commit(batch)
            writer.checkpoint()


def project(data_dir: Path) -> None:
    """Make the view, as fast as can be."""
    command = (sys.executable, "-m", "benchmarks.projecting", str(data_dir))
    subprocess.run(command, cwd=ROOT, check=True, timeout=FOLLOW_WITHIN)


def follow(data_dir: Path) -> Followed:
    """Have a follower, in a process of its own, bring the view up to the journal's head."""
    command = (sys.executable, "-m", "benchmarks.following", str(data_dir))
    with child(*command, is_ready=_began) as follower:
        end = _await_complete(locate(data_dir))
        return Followed(end - follower.said, peak_rss_mb(follower.pid))


def _began(line: str) -> float | None:
    return float(json.loads(line)["began"]) if line.startswith('{"began"') else None


def _await_complete(view: Path) -> float:
    deadline = time.monotonic() + FOLLOW_WITHIN
    while time.monotonic() < deadline:
        if _is_complete(view):
            return time.monotonic()
        time.sleep(POLL)
    raise RuntimeError(f"{view} was not complete within {FOLLOW_WITHIN:g} s")


def _is_complete(view: Path) -> bool:
    try:
        with closing(Reader(view)) as reader:
            return bool(reader.progress().complete)
    except apsw.Error:  # not there yet
        return False

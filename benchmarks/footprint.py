"""Memory of each process of `desk serve`, and processor time of an idle one.

Memory: at start with an empty journal; with a million sessions in journal and view, after each kind
of query and a stream through part of the feed; after `desk simulate` at full speed. Then idle:
processor time over 12 s, without and with one live subscriber.
"""

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from benchmarks import populations
from benchmarks.callbacks import WHALE
from benchmarks.measurement import Goal, Measurement, Population
from benchmarks.processes import cpu_seconds, peak_rss_mb, roles, rss_mb
from benchmarks.work import ROOT, child, desk, directory
from desk.client import Client
from desk.v1.session_pb2 import SessionFilter
from desk.v1.session_service_pb2 import CountGroup, CountSessionsRequest

NAME = "footprint"
RUNS = 1

SESSIONS, QUICK_SESSIONS = 1_000_000, 10_000
SENT, QUICK_SENT = 2_000, 100
"""Sessions of `desk simulate`, ten callbacks each."""
READ = 50_000
"""Events read from the feed."""
IDLE_SECONDS, QUICK_IDLE_SECONDS = 12.0, 2.0
SETTLE, QUICK_SETTLE = 3.0, 0.5
"""Seconds after which all processes are idle."""

AT_START = "memory at start"
PEAK = "most memory so far"
IDLE, IDLE_STREAM = "processor, idle", "processor, idle, one subscriber"
ALL = "all processes"
SERVERS = ("gateway", "follower", "rpc worker")


def full(sessions: int) -> str:
    """Return the name of a figure."""
    return f"memory at {sessions:,} sessions"


def loaded(sessions: int) -> str:
    """Return the name of a figure."""
    return f"memory at {sessions:,} sessions, after load"


GOALS = (
    *(
        Goal(what=what, subject=role, bound=150, at_most=True)
        for what in (full(SESSIONS), loaded(SESSIONS))
        for role in SERVERS
    ),
    Goal(what=IDLE, subject=ALL, bound=1, at_most=True),
)


def needs(*, quick: bool) -> list[Population]:
    """Return the population with a million sessions."""
    return [Population("sessions", QUICK_SESSIONS if quick else SESSIONS)]


def measure(run: int, *, quick: bool) -> Iterator[Measurement]:
    """Measure empty, full, loaded and idle."""
    settle = QUICK_SETTLE if quick else SETTLE
    with directory("empty") as data_dir, desk("serve", data_dir=data_dir) as serve:
        time.sleep(settle)
        yield from _memory(AT_START, serve.pid, run)
    (population,) = needs(quick=quick)
    sessions = population.count
    with (
        directory("full") as data_dir,
        desk("serve", data_dir=_copy(population, data_dir)) as serve,
    ):
        asyncio.run(_ask(serve.said["grpc"]))
        yield from _memory(full(sessions), serve.pid, run)
        _simulate(serve.said, QUICK_SENT if quick else SENT)
        yield from _memory(loaded(sessions), serve.pid, run)
        yield from _memory(PEAK, serve.pid, run, read=peak_rss_mb)
        time.sleep(settle)
        seconds = QUICK_IDLE_SECONDS if quick else IDLE_SECONDS
        yield from _idle(IDLE, serve.pid, seconds, run)
        with _subscriber(serve.said["grpc"], data_dir):
            yield from _idle(IDLE_STREAM, serve.pid, seconds, run)


def _copy(population: Population, data_dir: Path) -> Path:
    """Copy the directory: callbacks are added, and other benchmarks read it too."""
    shutil.copytree(populations.data_dir(population), data_dir, dirs_exist_ok=True)
    return data_dir


def _memory(what: str, pid: int, run: int, *, read: Any = rss_mb) -> Iterator[Measurement]:
    for role, process in roles(pid).items():
        yield Measurement(NAME, what, role, read(process), "MB", run)


def _idle(what: str, pid: int, seconds: float, run: int) -> Iterator[Measurement]:
    processes = roles(pid)
    before = {role: cpu_seconds(process) for role, process in processes.items()}
    began = time.monotonic()
    time.sleep(seconds)
    lasted = time.monotonic() - began
    used = {role: cpu_seconds(process) - before[role] for role, process in processes.items()}
    for role, cpu in {**used, ALL: sum(used.values())}.items():
        yield Measurement(NAME, what, role, 100 * cpu / lasted, "% of a core", run)


async def _ask(target: str) -> None:
    """Send one query of each kind that may take much memory."""
    async with Client(target) as client:
        for question in (SessionFilter(), SessionFilter(client_user_ids=[WHALE])):
            async with aclosing(client.list_sessions(question, page_size=1_000)) as sessions:
                number = 0
                async for _ in sessions:
                    number += 1
                    if number >= READ:
                        break
        count = CountSessionsRequest(group_by=CountGroup.COUNT_GROUP_STATE)
        await client.call(client.session_service.CountSessions, count, timeout=60)
        async with aclosing(client.subscribe(after_revision=0)) as updates:
            events = 0
            async for update in updates:
                events += len(update.records)
                if update.caught_up or events >= READ:
                    break


def _simulate(said: Any, sessions: int) -> None:
    command = (sys.executable, "-m", "command", "simulate", f"http://{said['http']}",
               "--sessions", str(sessions), "--seed", str(time.time_ns() % 10**9))  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True, timeout=120, stdout=subprocess.DEVNULL)


def _subscriber(target: str, data_dir: Path) -> Any:
    command = (sys.executable, "-m", "benchmarks.subscribers", target, "1",
               str(data_dir / "arrivals"))  # fmt: skip
    return child(*command, is_ready=lambda line: True if line.startswith("{") else None)

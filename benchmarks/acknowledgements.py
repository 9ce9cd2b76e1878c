"""Durable acknowledgements of one gateway process, requested over 32 connections.

A closed loop by wrk; each request is another callback. The subject is `desk gateway`. The reference
is a Falcon handler that stores nothing, on waitress with 8 threads.
"""

import json
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any

import apsw

from benchmarks.measurement import Goal, Measurement, NotMeasured
from benchmarks.peers import postgresql
from benchmarks.work import desk, directory, peer

NAME = "acknowledgements"
REFERENCE = "empty handler"
OURS = "desk gateway"
AFTERNOON = "FastAPI + SQLite"
POSTGRESQL = "FastAPI + PostgreSQL"
CONNECTIONS = 32

RATE, P50, P99, P999 = "acknowledgements", "p50", "p99", "p99.9"
GOALS = (
    Goal(what=RATE, subject=OURS, of=REFERENCE, bound=0.85),
    Goal(what=P99, subject=OURS, of=REFERENCE, bound=1.5, at_most=True),
    Goal(what=RATE, subject=OURS, of=AFTERNOON, bound=2),
)

Kept = Callable[[], float]
"""Returns the number of stored callbacks."""

Started = tuple[int, Kept]
"""The port, and a counter of the stored callbacks."""

Start = Callable[[], AbstractContextManager[Started]]

SCRIPT = Path(__file__).parent / "callbacks.lua"


def measure(run: int, *, quick: bool) -> Iterator[Measurement | NotMeasured]:
    """Measure each subject in turn."""
    for subject, (start, missing) in SUBJECTS.items():
        if why := missing() or ("" if shutil.which("wrk") else "wrk is not installed"):
            yield NotMeasured(NAME, subject, why)
            continue
        with start() as (port, kept):
            yield from _load(port, subject, run, seconds=1 if quick else 2, kept=kept)


def _load(port: int, subject: str, run: int, *, seconds: int, kept: Kept) -> Iterator[Measurement]:
    warm_up = _wrk(port, 1)  # connections, caches, files
    result = _wrk(port, seconds)
    if result["errors"]:
        raise RuntimeError(f"{subject}: {result['errors']} requests failed")
    missing = warm_up["requests"] + result["requests"] - kept()
    if missing > 0:
        raise RuntimeError(f"{subject}: {missing} callbacks were acknowledged and are not there")
    yield Measurement(NAME, RATE, subject, result["requests"] / result["seconds"], "1/s", run)
    for what, key in ((P50, "p50_ms"), (P99, "p99_ms"), (P999, "p999_ms")):
        yield Measurement(NAME, what, subject, result[key], "ms", run)


def _wrk(port: int, seconds: int) -> Any:
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(SCRIPT),
               f"http://127.0.0.1:{port}", "--", uuid.uuid4().hex]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


@contextmanager
def _empty() -> Iterator[Started]:
    with peer("empty_falcon") as ready:
        yield ready.said["port"], lambda: inf  # the handler that stores nothing


@contextmanager
def _ours() -> Iterator[Started]:
    with directory("gateway") as data_dir, desk("gateway", data_dir=data_dir) as ready:
        port = int(ready.said["http"].rpartition(":")[2])
        yield port, partial(_rows, data_dir / "journal.db", "entries")


@contextmanager
def _sqlite() -> Iterator[Started]:
    with directory("sqlite") as data_dir:
        path = data_dir / "callbacks.db"
        with peer("fastapi_sqlite", str(path)) as ready:
            yield ready.said["port"], partial(_rows, path, "callbacks")


@contextmanager
def _postgresql() -> Iterator[Started]:
    with postgresql.running() as host, peer("fastapi_postgresql", host) as ready:
        yield ready.said["port"], partial(postgresql.rows, host, "callbacks")


def _rows(path: Path, table: str) -> int:
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").get)


def _lacks(*modules: str) -> str:
    missing = [name for name in modules if find_spec(name) is None]
    return f"{', '.join(missing)} is not installed" if missing else ""


SUBJECTS: dict[str, tuple[Start, Callable[[], str]]] = {
    REFERENCE: (_empty, _lacks),
    OURS: (_ours, _lacks),
    AFTERNOON: (_sqlite, partial(_lacks, "fastapi", "uvicorn")),
    POSTGRESQL: (
        _postgresql,
        lambda: postgresql.missing() or _lacks("fastapi", "uvicorn", "asyncpg"),
    ),
}
"""By subject: the function that starts it, and one that says what is missing for it."""

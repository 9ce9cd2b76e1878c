"""Durable acknowledgements of one gateway process, requested over 32 connections.

A closed loop by wrk; each request is another callback. The subject is `desk gateway`. The reference
is a Falcon handler that stores nothing, on waitress with 8 threads.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import apsw

from benchmarks import wrk
from benchmarks.measurement import Goal, Measurement, NotMeasured
from benchmarks.peers import postgresql
from benchmarks.work import desk, directory, peer
from benchmarks.wrk import P99, RATE, Kept

NAME = "acknowledgements"
REFERENCE = "empty handler"
OURS = "desk gateway"
AFTERNOON = "FastAPI + SQLite"
POSTGRESQL = "FastAPI + PostgreSQL"
CONNECTIONS = 32

GOALS = (
    Goal(what=RATE, subject=OURS, of=REFERENCE, bound=0.85),
    Goal(what=P99, subject=OURS, of=REFERENCE, bound=1.5, at_most=True),
    Goal(what=RATE, subject=OURS, of=AFTERNOON, bound=2),
)

Started = tuple[int, Kept | None]
"""The port, and a counter of the stored callbacks, unless it stores none."""

Start = Callable[[], AbstractContextManager[Started]]


def measure(run: int, *, quick: bool) -> Iterator[Measurement | NotMeasured]:
    """Measure each subject in turn."""
    for subject, (start, missing) in SUBJECTS.items():
        if why := missing() or wrk.MISSING:
            yield NotMeasured(NAME, subject, why)
            continue
        with start() as (port, kept):
            seconds = 1 if quick else 2
            loads = wrk.drive([port], connections=CONNECTIONS, seconds=seconds, kept=kept)
            yield from wrk.measurements(loads, NAME, subject, run)


@contextmanager
def _empty() -> Iterator[Started]:
    with peer("empty_falcon") as ready:
        yield ready.said["port"], None


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

"""A tenth of all sessions forgotten while callbacks come in: `desk serve`, 500 callbacks/s.

The reference is the same system at the same rate before. The time is that from the first FORGET
entry until the last entry is deleted, and the files are swept.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from statistics import median

from benchmarks import populations
from benchmarks.driver import drive
from benchmarks.lag import gauge
from benchmarks.measurement import Goal, Measurement, Population
from benchmarks.work import SDK_APP_ID, desk, directory
from journal.forgetting import MAX_FORGOTTEN, forget_entry
from journal.sqlite_eraser import SqliteEraser
from service.view import store
from service.view.reader import Reader
from storage.sizes import size_of_database

NAME = "forgetting"
RUNS = 1
REFERENCE, OURS = "before", "while a tenth is forgotten"

SESSIONS, QUICK_SESSIONS = 1_000_000, 20_000
SHARE = 10
RATE = 500
PIECE = 3.0
"""Seconds of callbacks after which the state is looked at."""
PIECES_BEFORE = 5
WITHIN = 3600.0
"""Seconds that the work may take."""

P99 = f"p99 at {RATE}/s"
LAG = f"greatest lag at {RATE}/s"
UNHAPPY = f"refused or unanswered at {RATE}/s"
SOME = f"SELECT session_id FROM session_keys WHERE first_revision % {SHARE} = 1"

GOALS = (
    Goal(what=P99, subject=OURS, of=REFERENCE, bound=2, at_most=True),
    Goal(what=UNHAPPY, subject=OURS, bound=0, at_most=True),
)


def needs(*, quick: bool) -> list[Population]:
    """Return the population with a million sessions."""
    return [Population("sessions", QUICK_SESSIONS if quick else SESSIONS)]


def measure(run: int, *, quick: bool) -> Iterator[Measurement]:
    """Measure before, and during."""
    (population,) = needs(quick=quick)
    with directory("forgetting") as data_dir:
        shutil.copytree(populations.data_dir(population), data_dir, dirs_exist_ok=True)
        with desk("serve", data_dir=data_dir) as serve, ThreadPoolExecutor(1) as thread:
            http = int(serve.said["http"].rpartition(":")[2])
            pieces = iter(range(PIECES_BEFORE))
            yield from _figures(
                REFERENCE,
                http,
                serve.said["grpc"],
                data_dir,
                lambda: next(pieces, None) is None,
                run,
            )
            yield from _space("space before", data_dir, run)
            began = time.monotonic()
            forgetting = thread.submit(_forget, data_dir)

            def is_done() -> bool:
                assert time.monotonic() < began + WITHIN, "it takes too long"
                return forgetting.done() and _is_deleted(data_dir, forgetting.result())

            yield from _figures(OURS, http, serve.said["grpc"], data_dir, is_done, run)
            seconds = time.monotonic() - began
            yield Measurement(NAME, "seconds until nothing is left", OURS, seconds, "s", run)
            yield from _space("space after", data_dir, run)


def _figures(
    subject: str, port: int, target: str, data_dir: Path, is_over: Callable[[], bool], run: int
) -> Iterator[Measurement]:
    """Send callbacks until `is_over`."""
    p99s, unhappy, lags = [], 0, []
    with gauge(target, data_dir) as lag:
        while not is_over():
            report = drive(port, RATE, PIECE)
            lags.append(lag.look().ms)
            p99s.append(report["p99_ms"])
            unhappy += report["refused"] + report["total"] - report["answered"]
    yield Measurement(NAME, P99, subject, median(p99s), "ms", run)
    yield Measurement(NAME, f"highest {P99}", subject, max(p99s), "ms", run)
    yield Measurement(NAME, LAG, subject, max(lags), "ms", run)
    yield Measurement(NAME, UNHAPPY, subject, unhappy, "", run)


def _forget(data_dir: Path) -> int:
    """Append the FORGET entries; return the revision of the last one."""
    with closing(store.open_reader(store.locate(data_dir))) as db:
        sessions = [session_id for (session_id,) in db.execute(SOME)]
    eraser, last = SqliteEraser(data_dir / "journal.db"), 0
    for start in range(0, len(sessions), MAX_FORGOTTEN):
        listed = sessions[start : start + MAX_FORGOTTEN]
        now = time.time_ns() // 1_000_000
        last = eraser.forget(forget_entry(SDK_APP_ID, now, session_ids=listed))
    return last


def _is_deleted(data_dir: Path, last: int) -> bool:
    with closing(Reader(store.locate(data_dir))) as reader, reader.snapshot() as progress:
        return progress.applied_revision >= last and not reader.entries_to_delete(1)


def _space(what: str, data_dir: Path, run: int) -> Iterator[Measurement]:
    for subject, path in (
        ("journal", data_dir / "journal.db"),
        ("view", store.locate(data_dir)),
    ):
        yield Measurement(NAME, what, subject, sum(size_of_database(path)) / 1e6, "MB", run)

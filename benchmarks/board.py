"""Board and report: microseconds for a callback, and for a session.

The callbacks are those of the fold's benchmark. After each 500 of them the board is brought up to
date and made once, as for all who watch it. The reference is the fold of the same callbacks.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC
from functools import partial
from math import inf

from benchmarks import callbacks
from benchmarks.measurement import Goal, Measurement
from benchmarks.work import directory
from journal.entry import Entry, numbered
from service.board import BoardSelection
from service.intervals import Length, bounds, day_of
from service.projection import Projection
from service.report import ReportSelection
from service.rpc.live_board import Centre, ViewSums
from service.rpc.report_service import Computation
from service.tally import Thresholds
from service.view.reader import Reader
from service.view.writer import ViewWriter

NAME = "board"
REFERENCE, OURS, REPORT = "fold and view", "board", "report"
CALLBACK, SESSION = "us a callback at 500/s", "us a session"
GOALS = (Goal(what=CALLBACK, subject=OURS, bound=1, of=REFERENCE, at_most=True),)

COUNT, QUICK_COUNT = 16_000, 5_000
RATE = 500
MOST = 1_000_000

ALL = BoardSelection(frozenset(), frozenset(), Thresholds(), max_listed=20)


def measure(run: int, *, quick: bool) -> Iterator[Measurement]:
    """Measure fold and board in turn, then a report of the day."""
    bodies = callbacks.traffic(QUICK_COUNT if quick else COUNT, late=0.0)
    entries = [numbered(each, n) for n, each in enumerate(bodies, 1)]
    last = entries[-1].received_at
    sums = ViewSums(Centre(UTC, now=lambda: last), MOST)
    folding = showing = 0.0
    with directory(NAME) as data_dir, closing(ViewWriter(data_dir)) as writer:
        projection = Projection(writer, "0" * 32)
        for start in range(0, len(entries), RATE):
            part = entries[start : start + RATE]
            folding += _timed(partial(_apply, projection, part))
            with closing(Reader(writer.path)) as reader:
                showing += _timed(partial(_show, sums, reader))
        for subject, seconds in ((REFERENCE, folding), (OURS, showing)):
            value = seconds / len(entries) * 1e6
            yield Measurement(NAME, CALLBACK, subject, value, "us", run)
        with closing(Reader(writer.path)) as reader:
            seconds = _timed(lambda: _report(reader, last))
            sessions = sum(row[2] for row in reader.session_counts())
        yield Measurement(NAME, SESSION, REPORT, seconds / sessions * 1e6, "us", run)


def _apply(projection: Projection, part: Sequence[Entry]) -> None:
    projection.apply(part, head=part[-1].revision, behind_since=None)


def _show(sums: ViewSums, reader: Reader) -> None:
    sums.refresh(reader)
    sums.show(reader, ALL)


def _report(reader: Reader, now: int) -> None:
    day = bounds(*day_of(now, UTC), Length.QUARTER, UTC)
    selection = ReportSelection(day, False, False, True, (), (), (), Thresholds())
    Computation(selection, 0, inf, inf, MOST).compute(reader, now)


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began

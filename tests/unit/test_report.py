"""The computing of a report: what it leaves behind, and where the view cannot tell."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from journal.entry import Entry
from service.projection import Projection
from service.report import ReportSelection
from service.rpc.errors import CallRefused
from service.rpc.report_service import Computation
from service.tally import Thresholds
from service.view.reader import Reader
from service.view.writer import ViewWriter
from tests.support.callbacks import NOON, entry, life
from tests.support.views import JOURNAL

BOUNDS = [NOON - 100_000, NOON - 50_000, NOON + 100_000]
"""Nothing happens in the first interval."""

SELECTION = ReportSelection(BOUNDS, True, False, False, (), (), (), Thresholds())

COUNT_UP = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 200000)
SELECT n, n FROM numbers ORDER BY n DESC LIMIT ?
"""
"""Takes so long that a time limit would be noticed."""


@contextmanager
def reader_of(journal: list[Entry], begins_at: int = 1) -> Iterator[Reader]:
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(ViewWriter(Path(folder))) as writer,
    ):
        projection = Projection(writer, JOURNAL)
        projection.begin_at(begins_at)
        projection.apply(journal, head=journal[-1].revision, behind_since=None)
        with closing(Reader(writer.path)) as reader:
            yield reader


def journal(first: int = 1) -> list[Entry]:
    return [entry(first + place, each) for place, each in enumerate(life("SessionBegin"))]


def test_a_refused_report_leaves_no_time_limit_on_the_connection() -> None:
    with reader_of(journal()) as reader:
        refused = Computation(SELECTION, 0, float("inf"), 0.05, most_rows=0)
        with pytest.raises(CallRefused) as kept:  # and with it the frames of the computation
            refused.compute(reader, NOON)
        time.sleep(0.06)
        assert reader.places(COUNT_UP, (), 1) == [(200_000, 200_000)]
        assert kept.value.reason.name == "TOO_MANY_SESSIONS"


@pytest.mark.parametrize(("since", "changed"), [(98, True), (99, False), (100, False)])
def test_a_view_that_begins_later_cannot_tell_what_has_changed(since: int, changed: bool) -> None:
    with reader_of(journal(100), begins_at=100) as reader:
        answer = Computation(SELECTION, since, float("inf"), 10, 10).compute(reader, NOON)
    assert answer.intervals[0].changed is changed

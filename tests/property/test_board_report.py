"""Board and report follow every change of the view: late callbacks, and what is forgotten."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, timedelta, timezone
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from desk.v1.board_service_pb2 import Board, GetBoardResponse
from desk.v1.report_service_pb2 import GetReportResponse, ReportInterval
from journal.entry import Entry
from service.board import BoardSelection
from service.intervals import HOUR, QUARTER, Length, bounds, day_of
from service.projection import Projection
from service.report import ReportSelection
from service.rpc.live_board import Centre, ViewSums
from service.rpc.report_service import Computation
from service.tally import Thresholds
from service.view.reader import Reader
from service.view.writer import ViewWriter
from tests.property.test_forgetting import journals
from tests.support.callbacks import NOON
from tests.support.histories import batches
from tests.support.model import DAY
from tests.support.views import JOURNAL, MEMORY, apply_all

ALL = BoardSelection(frozenset(), frozenset(), Thresholds(), max_listed=20)
CENTRE = Centre(UTC, now=lambda: NOON)
SHORT = [NOON - HOUR, *range(NOON - 8_000, NOON + 40_000, 1_000), NOON + HOUR]
"""Bounds of intervals so short that the sessions of a journal leave and enter them."""


def views(cut: list[list[Entry]]) -> Iterator[Reader]:
    """Yield a reader of the view after each batch."""
    directory = MEMORY if MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(dir=directory) as folder,
        closing(ViewWriter(Path(folder))) as writer,
    ):
        projection = Projection(writer, JOURNAL)
        apply_all(projection, cut[0])
        with closing(Reader(writer.path)) as reader:
            yield reader
            for batch in cut[1:]:
                apply_all(projection, batch)
                yield reader


def board(sums: ViewSums, reader: Reader) -> tuple[int, Board]:
    answer = GetBoardResponse.FromString(sums.show(reader, ALL).response)
    return answer.header.revision, answer.board


def report(
    reader: Reader,
    since: int = 0,
    *,
    bounds: Sequence[int] = SHORT,
    grouped: bool = True,
    agents: Sequence[str] = (),
) -> GetReportResponse:
    groups = (grouped, grouped, grouped)
    selection = ReportSelection(bounds, *groups, (), (), agents, Thresholds())
    return Computation(selection, since, float("inf"), 60, 1_000).compute(reader, NOON)


@given(st.data(), journals())
def test_a_board_that_is_kept_is_the_one_computed_from_scratch(
    data: st.DataObject, journal: list[Entry]
) -> None:
    kept = ViewSums(CENTRE, 1_000)
    for reader in views(data.draw(batches(journal))):
        kept.refresh(reader)
        anew = ViewSums(CENTRE, 1_000)
        assert board(kept, reader) == board(anew, reader)


@given(st.data(), journals())
def test_an_interval_that_has_not_changed_has_the_same_figures(
    data: st.DataObject, journal: list[Entry]
) -> None:
    revision, before = 0, list[ReportInterval]()
    for reader in views(data.draw(batches(journal))):
        after = report(reader, since=revision)
        for old, new in zip(before, after.intervals, strict=False):
            assert new.changed or new.rows == old.rows
        revision, before = after.header.revision, list(after.intervals)


@given(st.data(), journals())
def test_the_total_is_the_row_of_one_interval_without_groups(
    data: st.DataObject, journal: list[Entry]
) -> None:
    agents = data.draw(st.sampled_from([(), ("agent-a",), ("agent-a", "agent-b", "")]))
    for reader in views(data.draw(batches(journal))):
        total = report(reader, agents=agents)
        whole = report(reader, agents=agents, bounds=[SHORT[0], SHORT[-1]], grouped=False)
        assert [total.total] * total.HasField("total") == list(whole.intervals[0].rows)
        assert whole.total == total.total


@given(
    st.integers(0, 4_000 * DAY),
    st.integers(1, 3 * DAY),
    st.sampled_from([Length.QUARTER, Length.HOUR, Length.DAY]),
    st.integers(-48, 56).map(lambda quarters: timezone(timedelta(minutes=15 * quarters))),
)
def test_intervals_cover_the_range_without_gaps(
    start: int, length: int, size: Length, zone: timezone
) -> None:
    found = bounds(start, start + length, size, zone)
    steps = {Length.QUARTER: QUARTER, Length.HOUR: HOUR, Length.DAY: DAY}
    assert found[0] <= start < found[1]
    assert found[-2] < start + length <= found[-1]
    assert {b - a for a, b in pairwise(found)} == {steps[size]}
    assert day_of(start, zone)[0] <= found[0]

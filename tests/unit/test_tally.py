"""Sums of offers: formulas at their edges, percentiles, and what is taken away again."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import desk.v1
from desk.client import FORMULAS
from service.figures import Offer, Result
from service.tally import Tally, Thresholds, merged, summary

EDGES = Thresholds(80, 30_000, 10_000)

ANSWERED, ABANDONED = Result.ANSWERED, Result.ABANDONED

offers = st.one_of(
    st.builds(Offer, st.just(0), st.just(ANSWERED), st.integers(0, 60_000), st.booleans()),
    st.builds(Offer, st.just(0), st.just(ABANDONED), st.integers(0, 60_000)),
    st.builds(
        Offer,
        st.just(0),
        st.sampled_from([Result.WAITING, Result.SENT_BACK, Result.ENDED_OTHERWISE]),
        st.none(),
    ),
)


def tally(*found: Offer) -> Tally:
    made = Tally()
    for each in found:
        made.add(each)
    return made


def test_thresholds_are_included_in_what_they_bound() -> None:
    waits = [Offer(0, ANSWERED, wait) for wait in (29_999, 30_000, 30_001, 90_000)]
    left = [Offer(0, ABANDONED, wait) for wait in (10_000, 10_001)]
    figures = tally(*waits, *left).figures(EDGES)
    assert (figures.answered, figures.answered_within) == (4, 2)
    assert (figures.abandoned, figures.short_abandons) == (2, 1)
    assert figures.service_level == 2 / 5
    assert figures.abandonment_rate == 1 / 5
    assert figures.raw_abandonment_rate == 2 / 6


def test_a_ratio_without_a_divisor_is_unset() -> None:
    figures = tally(Offer(0, Result.SENT_BACK), Offer(0, ABANDONED, 1)).figures(EDGES)
    assert not figures.HasField("service_level")
    assert not figures.HasField("abandonment_rate")
    assert not figures.HasField("transfer_rate")
    assert figures.raw_abandonment_rate == 1 / 2


@pytest.mark.parametrize(
    ("number", "median", "p90", "p99"),
    [(1, 1, 1, 1), (2, 1, 2, 2), (10, 5, 9, 10), (100, 50, 90, 99), (101, 51, 91, 100)],
)
def test_percentiles_are_of_the_nearest_rank(number: int, median: int, p90: int, p99: int) -> None:
    found = summary([1_000 * place for place in range(1, number + 1)])
    assert (found.median.seconds, found.p90.seconds, found.p99.seconds) == (median, p90, p99)
    assert found.max.seconds == number


@given(st.lists(offers), st.data())
def test_what_is_taken_away_leaves_no_trace(found: list[Offer], data: st.DataObject) -> None:
    changing = Tally()
    for each in found:
        changing.add(each)
        changing.figures(EDGES)
    kept = data.draw(st.lists(st.sampled_from(range(len(found))), unique=True)) if found else []
    for place, each in enumerate(found):
        if place not in kept:
            changing.remove(each)
    parts = [tally(found[place]) for place in kept]
    assert changing.figures(EDGES) == merged(parts).figures(EDGES)
    assert bool(changing) == bool(kept)


def test_each_formula_is_the_one_beside_its_field() -> None:
    folder = Path(desk.v1.__file__).parent
    text = "".join((folder / f"{name}.proto").read_text() for name in ("figures", "report_service"))
    fields = dict(re.findall(r"// ([^\n]+)\n  (?:optional )?[\w.]+ (\w+) = \d+;", text))
    beside = {field: formula.strip() for formula, field in fields.items() if field in FORMULAS}
    assert beside == FORMULAS

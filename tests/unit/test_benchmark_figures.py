"""Figures computed of measurements: medians, and ratios of figures of one run."""

import pytest

from benchmarks.measurement import Figures, Goal, Measurement, Spread, percentile


def figures(**by_subject: list[float]) -> Figures:
    return Figures(
        [
            Measurement("b", "rate", subject, value, "1/s", run)
            for subject, values in by_subject.items()
            for run, value in enumerate(values, 1)
        ]
    )


def test_a_ratio_is_of_figures_of_one_run() -> None:
    # The machine was twice as fast in the second run: each pair says 0.5, the medians would not.
    measured = figures(ours=[1, 20, 3], theirs=[2, 40, 6])
    assert measured.ratio("rate", "ours", "theirs") == Spread(0.5, 0.5, 0.5, 3)


def test_runs_that_only_one_of_them_has_do_not_count() -> None:
    assert figures(ours=[1, 2, 3], theirs=[1]).ratio("rate", "ours", "theirs") == Spread(1, 1, 1, 1)
    assert figures(ours=[1]).ratio("rate", "ours", "theirs") is None


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal(what="rate", subject="ours", bound=2), True),
        (Goal(what="rate", subject="ours", bound=2.1), False),
        (Goal(what="rate", subject="ours", bound=2, at_most=True), True),
        (Goal(what="rate", subject="ours", of="theirs", bound=0.5), True),
        (Goal(what="rate", subject="ours", of="theirs", bound=0.6), False),
    ],
)
def test_a_goal_is_met_by_the_median(goal: Goal, met: bool) -> None:
    reached = figures(ours=[1, 2, 9], theirs=[2, 4, 18]).reached(goal)
    assert reached is not None
    assert reached[1] is met


def test_a_goal_for_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert figures().reached(Goal(what="rate", subject="ours", bound=2)) is None


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile(values, 99.9) == 100
    assert percentile([7.0], 50) == 7

"""The measurements of a benchmark, and their medians and ratios within one run.

Measures nothing itself, and knows no files.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from math import ceil
from statistics import median

import msgspec


class Measurement(msgspec.Struct, frozen=True):
    """One figure of one subject in one run.

    Attributes:
        benchmark: the module's name.
        what: name of the figure; the same for all subjects that are compared.
        subject: the product or variant that was measured.
        value: the figure.
        unit: of the figure, such as `1/s`, `ms`, `MB`.
        run: number of the run, from 1. Ratios are of one run.
    """

    benchmark: str
    what: str
    subject: str
    value: float
    unit: str
    run: int


class NotMeasured(msgspec.Struct, frozen=True):
    """A subject that could not be measured, and the reason, such as a missing program."""

    benchmark: str
    subject: str
    why: str


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """A bound for one figure.

    Attributes:
        what, subject: the figure.
        bound: the lowest value to reach; with `at_most`, the highest one.
        of: if set, the bound is for the ratio to this subject's figure of the same `what`.
        of_what: with `of`, the `what` of that subject's figure.
        in_every_run: the bound is for each run, not only for the median.
    """

    what: str
    subject: str
    bound: float
    at_most: bool = False
    of: str | None = None
    of_what: str | None = None
    in_every_run: bool = False

    def __str__(self) -> str:
        figure = f"{self.subject}: {self.what}"
        other = f" / {self.of}" + (f": {self.of_what}" if self.of_what else "") if self.of else ""
        bound = f"{'≤' if self.at_most else '≥'} {self.bound:g}"
        return f"{figure}{other} {bound}{' in every run' if self.in_every_run else ''}"

    def is_met(self, spread: "Spread") -> bool:
        """Return True if a value meets the goal."""
        if self.at_most:
            return (spread.high if self.in_every_run else spread.median) <= self.bound
        return (spread.low if self.in_every_run else spread.median) >= self.bound


class Population(msgspec.Struct, frozen=True):
    """A data directory that a benchmark reads.

    Attributes:
        kind: a key of `benchmarks.populations.KINDS`.
        count: number of sessions or callbacks.
    """

    kind: str
    count: int


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """A module of this package that measures.

    Attributes:
        name: the module's.
        about: its docstring.
        reference: the subject that the others are divided by; "" without one.
        goals: bounds for its figures.
        runs: number of runs at most, for a long one; None: no limit.
        needs: called as `needs(quick=…)`; returns the data directories that it reads.
        measure: called as `measure(run, quick=…)`; yields measurements.
    """

    name: str
    about: str
    reference: str
    goals: Sequence[Goal]
    runs: int | None
    needs: Callable[..., Sequence[Population]]
    measure: Callable[..., Iterator[Measurement | NotMeasured]]


def load(name: str) -> Benchmark:
    """Import a benchmark: `measure` and, if present, `needs`, `REFERENCE`, `GOALS`, `RUNS`."""
    module = import_module(f"benchmarks.{name}")
    return Benchmark(
        name=name,
        about=(module.__doc__ or "").strip(),
        reference=getattr(module, "REFERENCE", ""),
        goals=getattr(module, "GOALS", ()),
        runs=getattr(module, "RUNS", None),
        needs=getattr(module, "needs", _nothing),
        measure=module.measure,
    )


def _nothing(*, quick: bool) -> Sequence[Population]:
    return ()


class Spread(msgspec.Struct, frozen=True):
    """The median, lowest and highest value of several runs."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Make the spread of at least one value."""
        return cls(median(values), min(values), max(values), len(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the lowest value that at least `percent` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


class Figures:
    """All measurements of one benchmark, by figure and subject."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self._values: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        self.units: dict[str, str] = {}
        for each in measurements:
            self._values[each.what, each.subject][each.run] = each.value
            self.units[each.what] = each.unit

    def subjects(self, what: str) -> list[str]:
        """Return the subjects in the order of measurement."""
        return [subject for measured, subject in self._values if measured == what]

    def spread(self, what: str, subject: str) -> Spread | None:
        """Return the figure's spread over all runs; None if it was not measured."""
        values = self._values.get((what, subject))
        return Spread.of(list(values.values())) if values else None

    def ratio(self, what: str, subject: str, of: str, of_what: str | None = None) -> Spread | None:
        """Return the spread of the figure's ratio to another, over all runs that have both."""
        ours = self._values.get((what, subject), {})
        theirs = self._values.get((of_what or what, of), {})
        ratios = [value / theirs[run] for run, value in ours.items() if theirs.get(run)]
        return Spread.of(ratios) if ratios else None

    def reached(self, goal: Goal) -> tuple[Spread, bool] | None:
        """Return the spread of a goal's figure, and True if it meets the goal."""
        if goal.of is None:
            spread = self.spread(goal.what, goal.subject)
        else:
            spread = self.ratio(goal.what, goal.subject, goal.of, goal.of_what)
        return (spread, goal.is_met(spread)) if spread else None

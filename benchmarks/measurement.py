"""What a benchmark yields, and what is computed of it: medians, and ratios within one run.

Knows nothing of how things are measured, and nothing of files.
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
        what: what was measured, in words; the same for all subjects that are compared.
        subject: who was measured.
        value: the figure.
        unit: of the figure, such as `1/s`, `ms`, `MB`.
        run: which run it belongs to, from 1. Ratios are of one run.
    """

    benchmark: str
    what: str
    subject: str
    value: float
    unit: str
    run: int


class NotMeasured(msgspec.Struct, frozen=True):
    """A subject that could not be measured here, and why: a peer that is not installed, say."""

    benchmark: str
    subject: str
    why: str


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """What we want of one figure; at least or at most `bound`.

    Attributes:
        what, subject: which figure.
        bound: what it should reach, or stay below if `at_most`.
        of: None: the bound is for the figure itself; a subject: for its ratio to that subject's
            figure of the same `what`.
        of_what: with `of`: the ratio is to that subject's figure of another `what`.
        in_every_run: it is for each run, and not only for their median.
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
        """Whether what was measured reaches it."""
        if self.at_most:
            return (spread.high if self.in_every_run else spread.median) <= self.bound
        return (spread.low if self.in_every_run else spread.median) >= self.bound


class Population(msgspec.Struct, frozen=True):
    """A data directory that a benchmark reads.

    Attributes:
        kind: of what it has so many, see `benchmarks.populations`.
        count: how many.
    """

    kind: str
    count: int


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """A module of this package that measures.

    Attributes:
        name: the module's.
        about: its docstring.
        reference: the subject that the others are divided by; "" if there is none.
        goals: what we want.
        runs: at most so many, because one is long; None: as many as are asked for.
        needs: called as `needs(quick=…)`; the data directories that it reads.
        measure: called as `measure(run, quick=…)`; yields what it finds.
    """

    name: str
    about: str
    reference: str
    goals: Sequence[Goal]
    runs: int | None
    needs: Callable[..., Sequence[Population]]
    measure: Callable[..., Iterator[Measurement | NotMeasured]]


def load(name: str) -> Benchmark:
    """Import a benchmark: `measure`, and if it has them `needs`, `REFERENCE`, `GOALS`, `RUNS`."""
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
    """The middle, the least and the greatest of what several runs gave."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(median(values), min(values), max(values), len(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that at least `percent` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


class Figures:
    """All measurements of one benchmark, by what and whom."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self._values: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        self.units: dict[str, str] = {}
        for each in measurements:
            self._values[each.what, each.subject][each.run] = each.value
            self.units[each.what] = each.unit

    def subjects(self, what: str) -> list[str]:
        """Who was measured, in that order."""
        return [subject for measured, subject in self._values if measured == what]

    def spread(self, what: str, subject: str) -> Spread | None:
        """The figure over all runs; None if it was not measured."""
        values = self._values.get((what, subject))
        return Spread.of(list(values.values())) if values else None

    def ratio(self, what: str, subject: str, of: str, of_what: str | None = None) -> Spread | None:
        """The figure divided by another of the same run, over all runs that have both."""
        ours = self._values.get((what, subject), {})
        theirs = self._values.get((of_what or what, of), {})
        ratios = [value / theirs[run] for run, value in ours.items() if theirs.get(run)]
        return Spread.of(ratios) if ratios else None

    def reached(self, goal: Goal) -> tuple[Spread, bool] | None:
        """What was measured of what a goal asks for, and whether that reaches it."""
        if goal.of is None:
            spread = self.spread(goal.what, goal.subject)
        else:
            spread = self.ratio(goal.what, goal.subject, goal.of, goal.of_what)
        return (spread, goal.is_met(spread)) if spread else None

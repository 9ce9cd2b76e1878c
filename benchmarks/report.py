"""The report: JSON of all figures, a Markdown table of medians and ratios, and a plot."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import plot
from benchmarks.measurement import Benchmark, Figures, Goal, Measurement, NotMeasured, Spread


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one session of benchmarks, and its machine."""

    machine: dict[str, Any]
    measurements: list[Measurement]
    not_measured: list[NotMeasured]

    def figures(self, benchmark: str) -> Figures:
        """Return the figures of one benchmark."""
        return Figures([each for each in self.measurements if each.benchmark == benchmark])

    def has(self, benchmark: str) -> bool:
        """Return True if the benchmark was run."""
        found = {each.benchmark for each in self.measurements}
        return benchmark in found | {each.benchmark for each in self.not_measured}

    def beside(self, kept: "Results", names: Sequence[str]) -> "Results":
        """Return these results of the benchmarks `names`, with older results of the others."""
        here = dict.fromkeys(names, self.machine["commit"])
        return Results(
            machine=kept.machine | {"later": kept.machine.get("later", {}) | here},
            measurements=[
                *(each for each in kept.measurements if each.benchmark not in names),
                *self.measurements,
            ],
            not_measured=[
                *(each for each in kept.not_measured if each.benchmark not in names),
                *self.not_measured,
            ],
        )


def read(out: Path) -> Results:
    """Return the results in `latest.json`."""
    return msgspec.json.decode((out / "latest.json").read_bytes(), type=Results)


def write(results: Results, benchmarks: Sequence[Benchmark], out: Path) -> None:
    """Write `latest.json`, `latest.md`, and `latest.svg` if matplotlib is installed."""
    out.mkdir(parents=True, exist_ok=True)
    plotted = plot.write({each: results.figures(each.name) for each in benchmarks}, out)
    (out / "latest.json").write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    text = markdown(results, benchmarks)
    (out / "latest.md").write_text(text + ("\n\n![ratios](latest.svg)\n" if plotted else ""))


def markdown(results: Results, benchmarks: Sequence[Benchmark]) -> str:
    """Return the report as Markdown."""
    return "\n".join([*_head(results.machine), *_sections(results, benchmarks)])


def _head(machine: dict[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    yield "# Benchmarks"
    yield ""
    yield (
        f"{machine['at']}, commit {machine['commit']}, {machine['seconds']} s. "
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"kernel {machine['kernel']}, Python {machine['python']}, SQLite {machine['sqlite']}. "
        f"4 KiB are durable after {machine['sync_ms']} ms. "
        f"Load before: {machine['load_before']:.2f}."
    )
    yield f"Versions: {versions}."
    if later := machine.get("later"):
        runs = ", ".join(f"{name} with commit {commit}" for name, commit in later.items())
        yield f"Run again later: {runs}."
    if machine["quick"]:
        yield ""
        yield "**A quick run: it shows that the benchmarks work. The figures mean little.**"
    yield ""
    yield "Medians (least–greatest of the runs). A ratio is of two figures of one run."


def _sections(results: Results, benchmarks: Sequence[Benchmark]) -> Iterator[str]:
    for benchmark in benchmarks:
        figures = results.figures(benchmark.name)
        measured = [each for each in results.measurements if each.benchmark == benchmark.name]
        yield from ["", f"## {benchmark.name}", "", benchmark.about, ""]
        yield from _table(benchmark, figures, measured)
        yield from _missing(results.not_measured, benchmark)
        yield from _goals(benchmark.goals, figures)


def _table(
    benchmark: Benchmark, figures: Figures, measured: Sequence[Measurement]
) -> Iterator[str]:
    reference = benchmark.reference
    yield f"| | | | ratio to {reference} | runs |" if reference else "| | | | | runs |"
    yield "|---|---|---:|---:|---:|"
    for what in dict.fromkeys(each.what for each in measured):
        for subject in figures.subjects(what):
            spread = figures.spread(what, subject)
            ratio = figures.ratio(what, subject, reference) if subject != reference else None
            if spread:
                yield (
                    f"| {what} | {subject} | {shown(spread, figures.units[what])} "
                    f"| {shown(ratio) if ratio else ''} | {spread.runs} |"
                )


def _missing(not_measured: Sequence[NotMeasured], benchmark: Benchmark) -> Iterator[str]:
    for each in not_measured:
        if each.benchmark == benchmark.name:
            yield f"| | {each.subject} | not measured: {each.why} | | |"


def _goals(goals: Sequence[Goal], figures: Figures) -> Iterator[str]:
    if goals:
        yield ""
    for goal in goals:
        reached = figures.reached(goal)
        if reached is None:
            yield f"- not measured · goal: {goal}"
            continue
        spread, met = reached
        said = f"{'met' if met else '**missed**'} · goal: {goal}"
        runs = f"{spread.runs} run{'s' if spread.runs > 1 else ''}"
        yield f"- {said}; measured {shown(spread)} in {runs}"


def shown(spread: Spread, unit: str = "") -> str:
    figures = f"{_figure(spread.median)} ({_figure(spread.low)}–{_figure(spread.high)})"
    return f"{figures} {unit}".rstrip()


def _figure(value: float) -> str:
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"

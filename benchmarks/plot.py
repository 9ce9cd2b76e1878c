"""The plot: per benchmark, the ratio of each subject to the reference. Needs matplotlib."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measurement import Benchmark, Figures, Spread

Row = tuple[str, Spread]


def write(figures: Mapping[Benchmark, Figures], out: Path) -> bool:
    """Write `latest.svg`. Return False without figures, or without matplotlib."""
    panels = {each.name: rows for each, of in figures.items() if (rows := _rows(each, of))}
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    if not panels:
        return False
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "desk"  # the same figures give the same file
    _draw(panels, out / "latest.svg")
    return True


def _rows(benchmark: Benchmark, figures: Figures) -> list[Row]:
    reference = benchmark.reference
    return [
        (f"{subject}: {what}", ratio)
        for what in figures.units
        for subject in figures.subjects(what)
        if reference and subject != reference
        if (ratio := figures.ratio(what, subject, reference))
    ]


def _draw(panels: Mapping[str, list[Row]], file: Path) -> None:
    from matplotlib import pyplot

    heights = [len(rows) + 1 for rows in panels.values()]
    figure, axes = pyplot.subplots(
        len(panels),
        figsize=(10, 0.28 * sum(heights) + 0.8 * len(panels)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axis, (name, rows) in zip(axes[:, 0], panels.items(), strict=True):
        _draw_panel(axis, name, rows)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _draw_panel(axis: Any, name: str, rows: list[Row]) -> None:
    places = range(len(rows), 0, -1)
    medians = [spread.median for _, spread in rows]
    below = [max(0.0, spread.median - spread.low) for _, spread in rows]
    above = [spread.high - spread.median for _, spread in rows]
    axis.errorbar(medians, list(places), xerr=[below, above], fmt="o", markersize=4, capsize=2)
    axis.axvline(1.0, color="grey", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_yticks(list(places), [label for label, _ in rows], fontsize=8)
    axis.set_ylim(0.3, len(rows) + 0.7)
    axis.set_title(f"{name}: ratio to the reference, median and range", fontsize=9, loc="left")
    axis.grid(axis="x", which="both", linewidth=0.3)

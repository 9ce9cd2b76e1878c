"""Tables in docs/ that are made of the last report, and of the simulation of the balance.

`python -m benchmarks.pages` writes them between their marks, as `<!-- limits -->`.
"""

import re
from collections.abc import Iterable, Iterator

from benchmarks import (
    balance,
    cluster_acknowledgements,
    cluster_fold,
    cluster_replica,
    end_to_end,
    report,
)
from benchmarks.measurement import Spread
from benchmarks.report import Results, shown
from benchmarks.work import ROOT
from benchmarks.wrk import RATE

RESULTS = ROOT / "benchmarks" / "results"

NOT_MEASURED = "not measured yet"

PEAK = 4
"""Callbacks in the busiest minute of a day, when the mean of its minutes is 1."""

CATCH_UP = 2
"""Callbacks that a service can fold while one comes: it catches up in the time that it missed."""

DAY = 86_400

ACKNOWLEDGED = cluster_acknowledgements.NAME
ONE, TWO = cluster_acknowledgements.ONE, cluster_acknowledgements.TWO
RAW, BOTH = cluster_acknowledgements.REFERENCE, cluster_acknowledgements.BOTH
ON_NATS = end_to_end.OURS + end_to_end.CLUSTER

FIGURES = (
    *(
        (ACKNOWLEDGED, RATE + cluster_acknowledgements.load(replicas, connections), subject, of)
        for replicas in cluster_acknowledgements.REPLICAS
        for connections in cluster_acknowledgements.CONNECTIONS
        for subject, of in ((ONE, RAW), (ONE, BOTH), (TWO, RAW))
    ),
    (cluster_fold.NAME, cluster_fold.RATE, cluster_fold.OURS, cluster_fold.REFERENCE),
    (cluster_replica.NAME, cluster_replica.TIME, cluster_replica.REFERENCE, ""),
    (
        *(cluster_replica.NAME, cluster_replica.TIME),
        *(cluster_replica.SNAPSHOT, cluster_replica.REFERENCE),
    ),
    *(
        (end_to_end.NAME, end_to_end.what(figure, rate), ON_NATS, end_to_end.OURS)
        for rate in end_to_end.RATES
        for figure in ("p50", "p99")
    ),
)
"""Benchmark, figure and subject of each row, and the subject that it is compared with."""

LIMITS = (
    (
        "one gateway; more of them share the load",
        (ACKNOWLEDGED, RATE + cluster_acknowledgements.load(3, 128), ONE),
        1,
    ),
    (
        "one stream with three replicas, and many gateways",
        (
            ACKNOWLEDGED,
            RATE + cluster_acknowledgements.load(3, cluster_acknowledgements.PIPELINED),
            RAW,
        ),
        1,
    ),
    (
        "one service: each folds the whole stream",
        (cluster_fold.NAME, cluster_fold.RATE, cluster_fold.OURS),
        CATCH_UP,
    ),
)
"""Limits of one stream: name, rate, and how many times as much the limit must be as the peak."""


def figures(results: Results) -> Iterator[str]:
    """Yield the figures of a cluster."""
    yield "| what | measured | ratio |"
    yield "|---|---:|---|"
    for benchmark, what, subject, reference in FIGURES:
        found = results.figures(benchmark)
        spread = found.spread(what, subject)
        value = shown(spread, found.units[what]) if spread else NOT_MEASURED
        ratio = found.ratio(what, subject, reference)
        beside = f"{shown(ratio)} × {reference}" if ratio else ""
        yield f"| {what}: {subject} | {value} | {beside} |"


def limits(results: Results) -> Iterator[str]:
    """Yield the limits of one stream, in callbacks a second and a day."""
    yield "| limit | callbacks/s | at the peak | a day |"
    yield "|---|---:|---:|---:|"
    for limit, (benchmark, what, subject), spare in LIMITS:
        spread = results.figures(benchmark).spread(what, subject)
        yield f"| {limit} | {_rates(spread, spare) if spread else f'{NOT_MEASURED} | |'} |"


def _rates(spread: Spread, spare: int) -> str:
    peak = spread.median / spare
    return f"{spread.median:,.0f} | {peak:,.0f} | {peak / PEAK * DAY / 1e6:,.0f} million"


PAGES = {
    "performance.md": {"cluster": figures},
    "scaling.md": {"limits": limits, "balance": lambda _: balance.table()},
}


def filled(text: str, mark: str, lines: Iterable[str]) -> str:
    """Return a page with lines between a mark and the next comment."""
    table = "\n".join(lines)
    return re.sub(rf"(<!-- {mark} -->\n).*?(\n<!--)", rf"\1{table}\2", text, flags=re.DOTALL)


def main() -> None:
    results = report.read(RESULTS)
    for name, tables in PAGES.items():
        page = ROOT / "docs" / name
        text = page.read_text()
        for mark, table in tables.items():
            text = filled(text, mark, table(results))
        page.write_text(text)


if __name__ == "__main__":
    main()

"""`python -m benchmarks [names…]`: run the benchmarks in turn, and write the report."""

import gc
import sys
import time
import traceback
from pathlib import Path

import click

from benchmarks import machine, populations, report
from benchmarks.measurement import Benchmark, Measurement, NotMeasured, load

NAMES = (
    "acknowledgements",
    "open_loop",
    "end_to_end",
    "fold",
    "board",
    "rebuild",
    "queries",
    "subscribe",
    "live",
    "footprint",
    "forgetting",
    "cluster_acknowledgements",
    "cluster_fold",
    "cluster_replica",
)
"""All benchmarks, in the order in which they run."""

BUDGET = 45 * 60
"""Seconds after which no further run starts."""

RESULTS = Path(__file__).parent / "results"


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--quick", is_flag=True, help="One short run of each, to see that it works.")
@click.option("--runs", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option("--keep", is_flag=True, help="Keep the report's figures of all other benchmarks.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(names: tuple[str, ...], quick: bool, runs: int, keep: bool, out: Path) -> None:
    """Run the benchmarks NAMES, or all; write latest.json, latest.md and latest.svg."""
    benchmarks = [load(name) for name in names or NAMES]
    kept = report.read(out) if keep else None
    facts = machine.describe()
    session = Session(benchmarks, runs=1 if quick else runs, quick=quick)
    try:
        session.run()
    finally:  # also after an interruption
        results = report.Results(
            machine=facts | {"quick": quick, "seconds": round(session.elapsed())},
            measurements=session.measurements,
            not_measured=session.not_measured,
        )
        if kept:
            results = results.beside(kept, [each.name for each in benchmarks])
            benchmarks = [load(name) for name in NAMES if results.has(name)]
        report.write(results, benchmarks, out)
    click.echo(report.markdown(results, benchmarks))
    sys.exit(1 if session.failed else 0)


class Session:
    """Runs benchmarks, and collects their measurements.

    Each round runs all benchmarks, so that a slow phase of the machine affects all of them.

    Attributes:
        failed: True if a benchmark raised an error.
    """

    def __init__(self, benchmarks: list[Benchmark], *, runs: int, quick: bool) -> None:
        self._benchmarks = benchmarks
        self._runs = runs
        self._quick = quick
        self._began = time.monotonic()
        self.measurements: list[Measurement] = []
        self.not_measured: list[NotMeasured] = []
        self.failed = False

    def elapsed(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._began

    def run(self) -> None:
        """Make the populations, then run as many rounds as the budget allows."""
        needed = [each for one in self._benchmarks for each in one.needs(quick=self._quick)]
        populations.prepare(needed)
        for run in range(1, self._runs + 1):
            for benchmark in self._benchmarks:
                if run <= (benchmark.runs or self._runs) and self.elapsed() < BUDGET:
                    self._run(benchmark, run)

    def _run(self, benchmark: Benchmark, run: int) -> None:
        click.echo(f"{self.elapsed():4.0f} s  {benchmark.name}, run {run}", err=True)
        _set_garbage_aside()
        try:
            for found in benchmark.measure(run, quick=self._quick):
                self._keep(found)
        except Exception as error:
            traceback.print_exc()
            self.failed = True
            why = f"failed: {type(error).__name__}"
            self._keep(NotMeasured(benchmark.name, f"the rest of run {run}", why))

    def _keep(self, found: Measurement | NotMeasured) -> None:
        if isinstance(found, NotMeasured):
            if found not in self.not_measured:
                self.not_measured.append(found)
            return
        self.measurements.append(found)
        click.echo(
            f"        {found.subject}: {found.what} {found.value:,.2f} {found.unit}", err=True
        )


def _set_garbage_aside() -> None:
    """Exempt the present objects from garbage collection, which would slow the client down.

    Larger answers cause more collections, so the comparison would be biased.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    main()

"""Fault tests of a cluster: `make chaos`.

Each schedule has a seed, which is printed. A failure is replayed on a new cluster with
`make chaos CHAOS_SCHEDULES=1 CHAOS_SEED=…`: the faults and the load are the same, their effects may
differ.
"""

import asyncio
import logging
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import msgspec
import structlog

from tests.chaos.cluster import Cluster
from tests.chaos.schedule import draw
from tests.chaos.trial import Result, Trial


@click.command()
@click.option("--schedules", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), required=True, help="Of the first schedule.")
@click.option(
    "--reuse",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Schedules on one cluster. A failure ends it early.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("build/chaos"),
    show_default=True,
    help="Folder of the results and the logs.",
)
def main(schedules: int, seed: int, reuse: int, out: Path) -> None:
    """Run schedules of faults. Exit code 1 if a promise was broken."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the parts are killed as well then
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    out.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    seeds = list(range(seed, seed + schedules))
    while seeds:
        results += _on_one_cluster(seeds, reuse, out)
    failed = [result.seed for result in results if result.problems]
    click.echo(f"{len(results)} schedules, {len(failed)} failed: {failed}")
    sys.exit(1 if failed else 0)


def _on_one_cluster(seeds: list[int], reuse: int, out: Path) -> list[Result]:
    """Run the first of the schedules, and take them from the list."""
    results: list[Result] = []
    logs = out / f"from-seed-{seeds[0]}"
    with TemporaryDirectory(prefix="chaos") as directory:
        cluster = Cluster(Path(directory))
        try:
            cluster.start()
            while seeds and len(results) < reuse:
                results.append(asyncio.run(Trial(cluster, draw(seeds.pop(0))).run()))
                _write(results[-1], out)
                if results[-1].problems:
                    break
        finally:
            cluster.close(logs)
    return results


def _write(result: Result, out: Path) -> None:
    said = {"at": time.strftime("%H:%M:%S"), "load": round(os.getloadavg()[0], 1)}
    line = msgspec.json.encode(said | msgspec.to_builtins(result)).decode()
    with (out / "results.jsonl").open("a") as file:
        file.write(f"{line}\n")
    verdict = "FAILED" if result.problems else "ok"
    figures = Counter(result.figures)
    click.echo(
        f"seed {result.seed}: {verdict}, {sum(result.faults.values())} faults, "
        f"{figures['accepted']} acknowledged, {figures['spooled']} of them spooled, "
        f"{figures['retries']} retries, {figures['unknown']} unknown, {figures['hops']} hops, "
        f"{sum(result.seconds):.0f} s"
    )
    for problem in result.problems:
        click.echo(f"    {problem}")


if __name__ == "__main__":
    main()

"""A soak test: the whole system at half of its highest rate, for minutes; `make soak`.

Measures first the rate at which `desk serve` acknowledges callbacks of `desk simulate`. Then runs
rounds of `desk simulate --verify` at half of it, with callbacks late, repeated, impossible and
malformed, while subscribers come and go. Memory and lag are sampled and plotted. Exit code 1 if
there was a difference, a stream out of order, or a process that died.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from benchmarks import machine, timeline
from benchmarks.processes import roles
from benchmarks.timeline import Sampler
from benchmarks.visitors import Visits
from benchmarks.work import ROOT, Ready, child, desk, directory

RESULTS = Path(__file__).parent / "results"

PROBE = 500
"""Sessions sent to measure the highest rate."""

SHARE = 0.5
"""Share of that rate during the soak."""

ROUND = 60.0
"""Seconds of sending in one round at most, without its verification."""

CALLBACKS = 12
"""Callbacks per session of the simulator, about."""

DISORDER = ("--duplicates", "5%", "--shuffle", "30%", "--impossible", "5%", "--malformed", "1%")

RunReport = dict[str, Any]
"""The output of `desk simulate --json`."""


@click.command()
@click.option("--seconds", type=click.FloatRange(min=5), default=600.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(seconds: float, out: Path) -> None:
    """Run the soak test for some seconds. Write soak.json and soak.svg."""
    facts = machine.describe()
    with directory("soak") as data_dir:
        with desk("serve", data_dir=data_dir) as serve:
            before = roles(serve.pid)
            capacity = _capacity(serve)
            click.echo(f"{capacity:,.0f} callbacks/s at most; soaking at {capacity * SHARE:,.0f}/s")
            with (
                Sampler(serve, data_dir) as sampler,
                _visitors(serve, data_dir / "visits") as visits,
            ):
                rounds = list(_rounds(serve, capacity * SHARE, seconds))
            after = roles(serve.pid)
        problems = list(_problems(rounds, visits, serve.process.returncode))
        if sampler.problem:
            problems.append(sampler.problem)
        if before != after:
            problems.append(f"a process died: {before} became {after}")
        found = {
            "machine": facts,
            "capacity_per_second": capacity,
            "rounds": rounds,
            "visits": msgspec.to_builtins(visits),
            "samples": msgspec.to_builtins(sampler.samples),
            "problems": problems,
        }
    _write(found, sampler, out)
    for line in (*_summary(rounds, visits, sampler), *problems):
        click.echo(line)
    sys.exit(1 if problems else 0)


def _capacity(serve: Ready) -> float:
    report, _ = _simulate(serve, PROBE)
    return float(report["per_second"])


def _rounds(serve: Ready, rate: float, seconds: float) -> Iterator[RunReport]:
    """Yield the reports of rounds until the time is over. The last round is shorter."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        sessions = max(1, round(min(left, ROUND) * rate / CALLBACKS))
        report, code = _simulate(
            serve, sessions, "--rate", f"{rate:.0f}", "--verify", serve.said["grpc"], *DISORDER
        )
        report["exit_code"] = code
        click.echo(
            f"{left:4.0f} s left: {report['sent']:,} sent, p99 "
            f"{report['latency_ms'].get('p99', 0):.1f} ms, exit code {code}"
        )
        yield report


def _simulate(serve: Ready, sessions: int, *options: str) -> tuple[RunReport, int]:
    command = (sys.executable, "-m", "command", "simulate", f"http://{serve.said['http']}",
               "--sessions", str(sessions), "--seed", str(time.time_ns() % 10**9),
               "--json", *options)  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=ROUND * 10, check=False
    )
    if not done.stdout.startswith("{"):
        raise RuntimeError(f"desk simulate failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout), done.returncode


@contextmanager
def _visitors(serve: Ready, file: Path) -> Iterator[Visits]:
    """Run subscribers that come and go. The yielded object is filled at the end of the block."""
    visits = Visits()
    command = (sys.executable, "-m", "benchmarks.visitors", serve.said["grpc"], str(file))
    with child(*command, is_ready=lambda line: True if line.startswith("{") else None):
        yield visits
    if not file.exists():
        visits.problems.append("the visitors' process failed")
        return
    found = msgspec.json.decode(file.read_bytes(), type=Visits)
    for field in Visits.__struct_fields__:
        setattr(visits, field, getattr(found, field))


def _problems(rounds: list[RunReport], visits: Visits, exit_code: int | None) -> Iterator[str]:
    for number, report in enumerate(rounds, 1):
        if report["exit_code"]:
            verification = json.dumps(report.get("verification") or report.get("error"))
            yield f"round {number} ended with {report['exit_code']}: {verification[:2000]}"
    yield from visits.problems
    if exit_code:
        yield f"desk serve ended with {exit_code}"


def _write(found: dict[str, Any], sampler: Sampler, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "soak.json").write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    if not timeline.plot(sampler.samples, out / "soak.svg"):
        click.echo("no plot: matplotlib is not installed")


def _summary(rounds: list[RunReport], visits: Visits, sampler: Sampler) -> Iterator[str]:
    sent = sum(report["sent"] for report in rounds)
    yield f"{len(rounds)} rounds, {sent:,} callbacks"
    yield f"{visits.visits:,} visits, {visits.events:,} events, {visits.fell_behind} fell behind"
    yield f"the view was {sampler.most_lag_ms:,.0f} ms behind at most"
    for role, (first, last) in sampler.growth().items():
        yield f"{role}: {first:.0f} MB, in the end {last:.0f} MB"


if __name__ == "__main__":
    main()

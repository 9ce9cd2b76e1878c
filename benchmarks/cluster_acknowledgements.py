"""Durable acknowledgements of one and two gateways, with the journal on NATS.

The journal has one replica on one nats-server (R1), or three on three (R3), all on this machine;
each server syncs before it answers. wrk has 32 or 128 connections, divided between the gateways.
The reference is nats-py, which publishes into the same stream, with as many callbacks unanswered.
A gateway must also answer HTTP, on the same cores: `BOTH` is the rate at which one request to an
empty handler and one raw publish take turns.
"""

import json
import subprocess
import sys
from collections.abc import Iterator

from benchmarks import nats, wrk
from benchmarks.measurement import Goal, Measurement, NotMeasured
from benchmarks.nats import Nats
from benchmarks.work import ROOT, desk, directory, peer

NAME = "cluster_acknowledgements"
RUNS = 3
REFERENCE = "raw publishes"
EMPTY, BOTH = "empty handler", "empty handler and raw publish in turn"
ONE, TWO = "one gateway", "two gateways"
REPLICAS = (1, 3)
CONNECTIONS, QUICK_CONNECTIONS = (32, 128), (32,)
PIPELINED = 512
"""Publishes unanswered at once with which nats-py is fastest."""


def load(replicas: int, connections: int) -> str:
    """Return the end of a figure's name."""
    return f" on R{replicas}, {connections} at once"


GOALS = tuple(
    Goal(what=wrk.RATE + load(3, connections), subject=ONE, of=of, bound=0.7)
    for connections in CONNECTIONS
    for of in (REFERENCE, BOTH)
)


def measure(run: int, *, quick: bool) -> Iterator[Measurement | NotMeasured]:
    """Measure all subjects in turn, on the same servers."""
    if wrk.MISSING:
        yield NotMeasured(NAME, ONE, wrk.MISSING)
        return
    for replicas in REPLICAS:
        with (
            nats.running(replicas) as servers,
            directory("first") as first,
            directory("second") as second,
            desk("gateway", data_dir=first, settings=servers.settings) as one,
            desk("gateway", data_dir=second, settings=servers.settings) as two,
        ):
            ports = [int(each.said["http"].rpartition(":")[2]) for each in (one, two)]
            yield from _measure(servers, ports, run, quick=quick)


def _measure(servers: Nats, ports: list[int], run: int, *, quick: bool) -> Iterator[Measurement]:
    seconds = 1 if quick else 2
    replicas = len(servers.servers)
    for connections in QUICK_CONNECTIONS if quick else CONNECTIONS:
        of = load(replicas, connections)
        raw, empty = _raw(servers, connections, seconds), _empty(connections, seconds)
        both = 1 / (1 / raw + 1 / empty)
        for subject, rate in ((REFERENCE, raw), (EMPTY, empty), (BOTH, both)):
            yield Measurement(NAME, wrk.RATE + of, subject, rate, "1/s", run)
        for subject, used in ((ONE, ports[:1]), (TWO, ports)):
            loads = wrk.drive(used, connections=connections, seconds=seconds, kept=servers.kept)
            yield from wrk.measurements(loads, NAME, subject, run, of=of)
    raw = _raw(servers, PIPELINED, seconds)
    yield Measurement(NAME, wrk.RATE + load(replicas, PIPELINED), REFERENCE, raw, "1/s", run)


def _empty(connections: int, seconds: int) -> float:
    with peer("empty_falcon") as ready:
        loads = wrk.drive([ready.said["port"]], connections=connections, seconds=seconds, kept=None)
    return wrk.rate(loads)


def _raw(servers: Nats, in_flight: int, seconds: int) -> float:
    command = (sys.executable, "-m", "benchmarks.peers.raw_publishes",
               ",".join(servers.urls), str(in_flight), str(seconds))  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60, check=True
    )
    return float(json.loads(done.stdout)["rate"])

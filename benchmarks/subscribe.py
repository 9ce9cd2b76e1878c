"""Subscribe, catching up: events per second to one Python client on the same machine.

The whole feed, from `desk service`, with several `max_batch`. `desk.client` checks the order and
can resume; the plain stub only counts. The reference is a stream of one event per message from the
same view. etcd, if installed, has a key per event with a value of a record's size, each put in its
own revision.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any

import grpc

from benchmarks import populations
from benchmarks.measurement import Goal, Measurement, NotMeasured, Population
from benchmarks.peers import etcd
from benchmarks.peers.one_event import METHOD
from benchmarks.processes import cpu_seconds, roles
from benchmarks.work import desk, peer
from desk.client import Client
from desk.v1.event_pb2 import SessionRecord
from desk.v1.event_service_pb2 import SubscribeRequest
from desk.v1.event_service_pb2_grpc import EventServiceStub
from service.view.store import locate

NAME = "subscribe"
CATCH_UP = "events/s catching up"
COST = "worker's time per event"
ONE_EVENT, WATCH = "one event per message", "etcd Watch"
CLIENT, STUB = "desk.client, {} per message", "stub, {} per message"
REFERENCE = ONE_EVENT

GOALS = (
    Goal(what=CATCH_UP, subject=CLIENT.format(500), bound=250_000),
    Goal(what=CATCH_UP, subject=CLIENT.format(500), bound=25, of=WATCH),
)

EVENTS, QUICK_EVENTS = 200_000, 10_000
FEW, QUICK_FEW = 20_000, 2_000
"""Events where each has a message of its own, which is slower."""

RECORD_BYTES = 700
"""Size of a record as a message, about."""

Read = Callable[[str], Coroutine[Any, Any, int]]
"""Reads the feed of the server at an address. Returns the number of events."""


def needs(*, quick: bool) -> list[Population]:
    """Return the population of the feed."""
    return [Population("traffic", QUICK_EVENTS if quick else EVENTS)]


def measure(run: int, *, quick: bool) -> Iterator[Measurement | NotMeasured]:
    """Measure the service, the reference and etcd."""
    few = QUICK_FEW if quick else FEW
    (population,) = needs(quick=quick)
    data_dir = populations.warmed(population)
    with desk("service", data_dir=data_dir) as service:
        worker = roles(service.pid)["rpc worker"]
        for subject, read in _ours(few).items():
            yield from _measure(subject, read, service.said["grpc"], worker, run)
    with peer("one_event", str(locate(data_dir))) as ready:
        read = partial(_one_by_one, few=few)
        address = f"127.0.0.1:{ready.said['port']}"
        yield from _measure(ONE_EVENT, read, address, ready.pid, run)
    if not etcd.INSTALLED:
        yield NotMeasured(NAME, WATCH, etcd.WHY_NOT)
        return
    with etcd.running() as (address, pid):
        asyncio.run(_fill(address, few))
        yield from _measure(WATCH, partial(_watch, events=few), address, pid, run)


def _ours(few: int) -> dict[str, Read]:
    return {
        CLIENT.format(1): partial(_client, max_batch=1, enough=few),
        CLIENT.format(100): partial(_client, max_batch=100),
        CLIENT.format(500): partial(_client, max_batch=500),
        CLIENT.format(1_000): partial(_client, max_batch=1_000),
        STUB.format(500): partial(_stub, max_batch=500),
    }


def _measure(
    subject: str, read: Read, address: str, server: int, run: int
) -> Iterator[Measurement]:
    before, began = cpu_seconds(server), time.perf_counter()
    events = asyncio.run(read(address))
    seconds = time.perf_counter() - began
    cost = (cpu_seconds(server) - before) / events * 1e6
    yield Measurement(NAME, CATCH_UP, subject, events / seconds, "1/s", run)
    yield Measurement(NAME, COST, subject, cost, "µs", run)


async def _client(address: str, *, max_batch: int, enough: int = EVENTS) -> int:
    events = 0
    async with Client(address) as client:
        updates = client.subscribe(after_revision=0, max_batch=max_batch)
        async with aclosing(updates):
            async for update in updates:
                events += len(update.records)
                if update.caught_up or events >= enough:
                    break
    return events


async def _stub(address: str, *, max_batch: int) -> int:
    events = 0
    async with grpc.aio.insecure_channel(address) as channel:
        request = SubscribeRequest(after_revision=0, max_batch=max_batch)
        call: Any = EventServiceStub(channel).Subscribe(request)
        while not (response := await call.read()).HasField("caught_up"):
            events += len(response.records.records)
        call.cancel()
    return events


async def _one_by_one(address: str, *, few: int) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        method: Any = channel.unary_stream(METHOD, response_deserializer=SessionRecord.FromString)
        call = method(b"")
        for _ in range(few):
            await call.read()
        call.cancel()
    return few


async def _fill(address: str, events: int) -> None:
    async with etcd.connected(address) as client:
        await client.fill([bytes(RECORD_BYTES)] * events)


async def _watch(address: str, *, events: int) -> int:
    async with etcd.connected(address) as client:
        return await client.watch(events)

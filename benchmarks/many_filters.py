"""Streams with a filter each for another agent, and another client's calls meanwhile.

`python -m benchmarks.many_filters --streams 4900 --rate 1000`: opens the streams in a process of
their own, has callbacks appended by another, each for one of the agents, and asks `GetSession`
every 20 ms. Prints the percentiles and the load of the worker.
"""

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import click
import grpc
import msgspec

from benchmarks import callbacks, populations
from benchmarks.processes import cpu_seconds, roles
from benchmarks.work import child, desk, directory
from desk.v1.event_pb2 import EventFilter, Verdict
from desk.v1.event_service_pb2 import SubscribeRequest
from desk.v1.event_service_pb2_grpc import EventServiceStub
from desk.v1.session_service_pb2 import GetSessionRequest
from desk.v1.session_service_pb2_grpc import SessionServiceStub
from journal.entry import NewEntry
from journal.sqlite import SqliteWriter

STREAMS_PER_CHANNEL = 500
PAUSE = 0.02
"""Seconds between two calls of `GetSession`."""

VERDICTS = [each for each in Verdict.values() if each]


@click.group(invoke_without_command=True)
@click.option("--streams", default=4_900, show_default=True)
@click.option("--rate", default=1_000, show_default=True, help="Callbacks per second.")
@click.option("--seconds", default=10.0, show_default=True)
@click.pass_context
def main(context: click.Context, streams: int, rate: int, seconds: float) -> None:
    """Run the measurement once."""
    if context.invoked_subcommand:
        return
    with directory("many-filters") as data_dir:
        populations.write_journal(data_dir, callbacks.begins(1_000))
        populations.follow(data_dir)
        with desk("service", data_dir=data_dir) as service:
            worker, target = roles(service.pid)["rpc worker"], service.said["grpc"]
            with _role("subscribe", target, streams), _role("append", data_dir, rate, streams):
                before, began = cpu_seconds(worker), time.monotonic()
                times = asyncio.run(_ask(target, seconds))
                load = (cpu_seconds(worker) - before) / (time.monotonic() - began)
    p50, p99 = (times[int(share * len(times))] * 1000 for share in (0.5, 0.99))
    click.echo(f"GetSession p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {times[-1] * 1000:.1f} ms")
    click.echo(f"worker at {load * 100:.0f} % of a core")


def _role(name: str, *arguments: object) -> Any:
    command = (sys.executable, "-m", "benchmarks.many_filters", name, *map(str, arguments))
    return child(*command, is_ready=lambda line: True if "ready" in line else None)


async def _ask(target: str, seconds: float) -> list[float]:
    times = []
    async with grpc.aio.insecure_channel(target) as channel:
        ask, end = SessionServiceStub(channel).GetSession, time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.monotonic()
            with suppress(grpc.aio.AioRpcError):  # not found, or too late, as the latency shows
                await ask(GetSessionRequest(session_id="nobody"), timeout=10)
            times.append(time.monotonic() - began)
            await asyncio.sleep(PAUSE)
    return sorted(times)


@main.command()
@click.argument("target")
@click.argument("count", type=int)
def subscribe(target: str, count: int) -> None:
    """Open the streams, and read them until the end."""
    asyncio.run(_subscribe(target, count))


async def _subscribe(target: str, count: int) -> None:
    own = (("grpc.use_local_subchannel_pool", 1),)
    channels = [
        grpc.aio.insecure_channel(target, options=own)
        for _ in range(-(-count // STREAMS_PER_CHANNEL))
    ]
    live = [asyncio.Event() for _ in range(count)]
    readers = [
        asyncio.create_task(_read(channels[number % len(channels)], number, live[number]))
        for number in range(count)
    ]
    await asyncio.gather(*(event.wait() for event in live))
    print(json.dumps({"ready": count}), flush=True)
    await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
    raise RuntimeError("a stream ended")


async def _read(channel: grpc.aio.Channel, number: int, live: asyncio.Event) -> None:
    asked = EventFilter(agent_ids=[f"agent-{number}"], verdicts=VERDICTS)
    call = EventServiceStub(channel).Subscribe(SubscribeRequest(filter=asked))
    while await call.read() is not grpc.aio.EOF:
        live.set()


@main.command()
@click.argument("data_dir", type=click.Path(path_type=Path))
@click.argument("rate", type=int)
@click.argument("agents", type=int)
def append(data_dir: Path, rate: int, agents: int) -> None:
    """Append callbacks on schedule, for one agent after the other, until the end."""
    print(json.dumps({"ready": rate}), flush=True)
    with (
        closing(SqliteWriter(data_dir / "journal.db")) as journal,
        ThreadPoolExecutor(32) as pool,
    ):
        begin, sent = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - begin) * rate)
            for number in range(sent, due):
                pool.submit(journal.append, _callback(number, number % agents), timeout=5)
            sent = due
            time.sleep(0.005)


def _callback(number: int, agent: int) -> NewEntry:
    at = callbacks.START + number
    body = {
        "CallbackCommand": "Desk.SessionEventNotify",
        "SessionId": f"many-filters-{number}",
        "Event": "TransferToHumanSuccess",
        "EventTime": at,
        "AgentId": f"agent-{agent}",
    }
    return callbacks.entry(msgspec.json.encode(body), at)


if __name__ == "__main__":
    main()

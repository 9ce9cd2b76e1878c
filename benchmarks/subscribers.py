"""Many live subscribers in a process of their own, which records the arrivals.

`python -m benchmarks.subscribers TARGET COUNT FILE`: opens the streams, prints a line of JSON once
all are live, and on SIGTERM writes the arrivals to the file: per message the time (monotonic
seconds) and the revisions of its first and last record. Writes no file if a stream had a gap.
"""

import asyncio
import json
import signal
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import grpc
import msgspec

from desk.v1.event_service_pb2 import SubscribeRequest, SubscribeResponse

STREAMS_PER_CHANNEL = 100
"""Streams per connection; the server allows a thousand."""

METHOD = "/desk.v1.EventService/Subscribe"

Arrival = tuple[float, int, int]
"""Time (monotonic seconds), first and last revision of a message."""


async def collect(target: str, count: int) -> list[Arrival]:
    """Open `count` streams, and record the arrivals until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    arrivals: list[Arrival] = []
    live = [asyncio.Event() for _ in range(count)]
    channels = [_channel(target) for _ in range(-(-count // STREAMS_PER_CHANNEL))]
    streams = [
        asyncio.create_task(_subscribe(channels[number % len(channels)], event, arrivals))
        for number, event in enumerate(live)
    ]
    await asyncio.gather(*(event.wait() for event in live))
    print(json.dumps({"live": count}), flush=True)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({stopped, *streams}, return_when=asyncio.FIRST_COMPLETED)
    for stream in streams:
        if stream.done():
            stream.result()  # a gap, or an error of the service
        stream.cancel()
    return arrivals


def _channel(target: str) -> grpc.aio.Channel:
    own_connection = (("grpc.use_local_subchannel_pool", 1),)
    return grpc.aio.insecure_channel(target, options=own_connection)


async def _subscribe(
    channel: grpc.aio.Channel, live: asyncio.Event, arrivals: list[Arrival]
) -> None:
    serialize = SubscribeRequest.SerializeToString
    call: Any = channel.unary_stream(METHOD, request_serializer=serialize)(SubscribeRequest())
    reached = None
    while message := await call.read():
        now = time.monotonic()
        first, last, revision = _revisions(message)
        live.set()
        if first:
            if reached is not None and first != reached + 1:
                raise RuntimeError(f"revision {first} came after {reached}")
            arrivals.append((now, first, last))
        reached = revision
    raise RuntimeError("a stream ended")


@lru_cache(256)  # all get the same message
def _revisions(message: bytes) -> tuple[int, int, int]:
    response = SubscribeResponse.FromString(message)
    records = response.records.records
    first, last = (records[0].revision, records[-1].revision) if records else (0, 0)
    return first, last, response.header.revision


if __name__ == "__main__":
    found = asyncio.run(collect(sys.argv[1], int(sys.argv[2])))
    Path(sys.argv[3]).write_bytes(msgspec.msgpack.encode(found))

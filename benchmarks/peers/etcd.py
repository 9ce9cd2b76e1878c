"""etcd, if installed: a server on loopback with its defaults, and a client of plain stubs.

Durable like the gateway: etcd syncs its log before it answers a Put. Reads are `serializable`,
answered from the server's own state, as the service answers from its view.
"""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import grpc

from benchmarks.work import child, directory

INSTALLED = shutil.which("etcd") is not None

WHY_NOT = "etcd is not installed"

EVERYTHING = {"key": b"\0", "range_end": b"\0"}
"""The range of all keys."""

_IN_FLIGHT = 64

_OPTIONS = (("grpc.max_receive_message_length", 64 * 1024 * 1024),)  # a watch's answers are large

_READY = "serving client traffic"


@contextmanager
def running() -> Iterator[tuple[str, int]]:
    """Run a server with an empty store inside the block. Yield `host:port` and its pid."""
    with directory("etcd") as data_dir:
        client, peer = (f"http://127.0.0.1:{port}" for port in _free_ports(2))
        command = (
            "etcd", "--data-dir", str(data_dir), "--name", "one", "--logger", "zap",
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"one={peer}",
        )  # fmt: skip
        with child(*command, is_ready=_when_ready) as server:
            yield client.removeprefix("http://"), server.pid


class Client:
    """The calls of the benchmarks to etcd."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.pb, services = grpc.protos_and_services("benchmarks/peers/etcd.proto")
        self._kv = services.KVStub(channel)
        self._watch = services.WatchStub(channel)

    async def fill(self, values: Sequence[bytes]) -> None:
        """Put a value at the key of each number, each in its own revision."""
        numbered = iter(enumerate(values))

        async def put() -> None:
            for number, value in numbered:
                await self._kv.Put(self.pb.PutRequest(key=key(number), value=value))

        await asyncio.gather(*(put() for _ in range(_IN_FLIGHT)))

    async def range(self, number: int, limit: int = 1) -> int:
        """Read keys, beginning at a number. Return how many came."""
        end = b"" if limit == 1 else b"\0"
        request = self.pb.RangeRequest(
            key=key(number), range_end=end, limit=limit, serializable=True
        )
        return len((await self._kv.Range(request)).kvs)

    async def watch(self, events: int) -> int:
        """Read the first events of all keys. Return how many came."""
        create = self.pb.WatchCreateRequest(**EVERYTHING, start_revision=1)
        call = self._watch.Watch()
        await call.write(self.pb.WatchRequest(create_request=create))
        seen = 0
        while seen < events:
            seen += len((await call.read()).events)
        call.cancel()
        return seen


@asynccontextmanager
async def connected(target: str) -> AsyncIterator[Client]:
    """Yield a client of a running server."""
    async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
        yield Client(channel)


def key(number: int) -> bytes:
    """Return the key of a number. Keys sort as their numbers."""
    return b"session/%012d" % number


def _when_ready(line: str) -> bool | None:
    return True if _READY in line else None


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets: list[Any] = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]

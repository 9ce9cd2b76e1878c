"""A cluster of real processes whose every connection passes a proxy, and the faults that it has."""

import asyncio
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

import nats
from nats.errors import Error as NatsError

from journal.jetstream import JetStreamOptions, JetStreamReader
from journal.jetstream_access import Access
from journal.jetstream_stream import StreamOptions
from tests.chaos.parts import FULL, DeskPart, Part, ServerPart, free_port
from tests.chaos.schedule import GATEWAYS, LEADER, SERVERS, SERVICES, Fault
from tests.support.nats import MIB
from tests.support.processes import SDK_APP_ID
from tests.support.proxy import Proxy

ANSWER_WITHIN = 1.0
"""Seconds in which a server must say who leads."""

STREAM = "desk"

MAX_BYTES = 256 * MIB


class Cluster:
    """Three servers, two gateways, two services.

    Attributes:
        parts: by name.
        http: port that forwards to the gateways, as a load balancer does.
        grpc: port of each service.
        desks: the gateways and services.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._proxies: list[Proxy] = []
        self._ill: set[str] = set()
        self._lock = threading.Lock()
        self._leader = SERVERS[0]
        self._servers = self._new_servers()
        self.desks = [self._new_desk(name) for name in (*GATEWAYS, *SERVICES)]
        self.parts: dict[str, Part] = {part.name: part for part in (*self._servers, *self.desks)}
        fronts = {desk.name: self._way([desk.port], desk).port for desk in self.desks}
        self.http = self._way([fronts[name] for name in GATEWAYS]).port
        self.grpc = [fronts[name] for name in SERVICES]

    def start(self) -> None:
        for part in self.parts.values():
            part.start()

    def reader(self) -> JetStreamReader:
        """Return a reader of the journal, past the proxies."""
        access = Access(servers=tuple(each.server.url for each in self._servers))
        stream = StreamOptions(name=STREAM, replicas=3, max_bytes=MAX_BYTES)
        return JetStreamReader(JetStreamOptions(access=access, stream=stream))

    def close(self, logs: Path | None = None) -> None:
        """Kill all processes, and write what they have logged into a directory."""
        for part in self.parts.values():
            with suppress(Exception):
                part.stop(signal.SIGKILL)
            if logs:
                logs.mkdir(parents=True, exist_ok=True)
                (logs / f"{part.name}.log").write_text(part.output())
        for each in self._proxies:
            each.close()

    def begin(self, fault: Fault, random: Random) -> Part | None:
        """Begin a fault; return the part, or None if that has another fault."""
        name = self.leader() if fault.part == LEADER else fault.part
        with self._lock:
            if name in self._ill:
                return None
            self._ill.add(name)
        part = self.parts[name]
        _ACTS[fault.kind](part, random)
        return part

    def heal(self, fault: Fault, part: Part) -> None:
        _REMEDIES[fault.kind](part)
        with self._lock:
            self._ill.discard(part.name)

    def leader(self) -> str:
        """Return the name of the server that leads the stream, or the last one that is known."""
        for each in self._servers:
            with suppress(NatsError, OSError, TimeoutError):
                self._leader = asyncio.run(_leader(each.server.url))
                break
        return self._leader

    def _new_servers(self) -> list[ServerPart]:
        ports = {name: free_port() for name in SERVERS}
        servers = [ServerPart(name, self._directory / name, ports[name]) for name in SERVERS]
        routes: dict[str, list[Proxy]] = {name: [] for name in SERVERS}
        for one, other in permutations(servers, 2):
            routes[one.name].append(self._way([ports[other.name]], one, other))
        for server in servers:
            server.connect(routes[server.name])
        return servers

    def _new_desk(self, name: str) -> DeskPart:
        desk = DeskPart(name, self._directory / name)
        ways = [self._way([each.server.port], desk, each) for each in self._servers]
        desk.settings |= {
            "DESK_JOURNAL": "nats://" + ",".join(f"127.0.0.1:{way.port}" for way in ways),
            "DESK_SDK_APP_IDS": str(SDK_APP_ID),
            "DESK_NATS_STREAM": STREAM,
            "DESK_NATS_REPLICAS": "3",
            "DESK_NATS_MAX_BYTES": str(MAX_BYTES),
        }
        return desk

    def _way(self, targets: Sequence[int], *parts: Part) -> Proxy:
        """Return a proxy to ports that is on the ways of some parts."""
        way = Proxy(*targets)
        self._proxies.append(way)
        for part in parts:
            part.ways.append(way)
        return way


async def _leader(url: str) -> str:
    async def ignore(_: Exception) -> None: ...

    async with asyncio.timeout(ANSWER_WITHIN):
        client = await nats.connect(url, allow_reconnect=False, error_cb=ignore)
        try:
            info = await client.jetstream().stream_info(STREAM)
        finally:
            await client.close()
    if not (info.cluster and info.cluster.leader):
        raise NatsError("there is no leader")
    return info.cluster.leader


_ACTS: dict[str, Callable[[Any, Random], None]] = {
    "kill": lambda part, _: part.stop(signal.SIGKILL),
    "stop": lambda part, _: part.stop(signal.SIGTERM),
    "lame-duck": lambda part, _: part.signal(signal.SIGUSR2),
    "freeze": lambda part, _: part.signal(signal.SIGSTOP),
    "hang": lambda part, _: part.signal(signal.SIGSTOP),
    "isolate": lambda part, _: part.stall(),
    "drop": lambda part, _: part.stall(),
    "cut": lambda part, _: part.cut(),
    "cut-one": lambda part, _: part.cut(single=True),
    "kill-child": lambda part, random: part.kill_child(random),
    "fill-disk": lambda part, _: part.limit_files(FULL),
    "lose-view": lambda part, _: part.lose_view(),
}

_REMEDIES: defaultdict[str, Callable[[Any], None]] = defaultdict(
    lambda: lambda _: None,
    {
        "kill": lambda part: part.start(),
        "stop": lambda part: part.start(),
        "lame-duck": lambda part: part.restart(),
        "freeze": lambda part: part.signal(signal.SIGCONT),
        "hang": lambda part: part.restart(),
        "isolate": lambda part: part.flow(),
        "drop": lambda part: part.drop(),
        "fill-disk": lambda part: part.limit_files(),
        "lose-view": lambda part: part.start(),
    },
)

"""nats-servers on loopback that hold a journal, and the settings of `desk` for them."""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import count, islice
from typing import NamedTuple
from uuid import uuid4

from nats.js import JetStreamContext

from benchmarks.work import directory
from journal.entry import NewEntry, numbered
from journal.jetstream import JetStreamOptions
from journal.jetstream_access import Access
from journal.jetstream_copy import WINDOW, JetStreamTarget
from journal.jetstream_stream import StreamOptions
from tests.support.nats import NatsServer, nats_cluster, nats_server

DURABLE = "sync_interval: always"
"""The setting of JetStream with which an acknowledgement means *on disk*."""

STREAM = "desk"

MAX_BYTES = 8 * 1024**3
"""Bytes of the stream; snapshots may take half of it."""


class Nats(NamedTuple):
    """Running servers. `settings` are those of `desk` for a journal on all of them."""

    servers: list[NatsServer]
    settings: dict[str, str]

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def kept(self) -> int:
        """Return the number of stored callbacks."""

        async def count(js: JetStreamContext) -> int:
            return (await js.stream_info(STREAM)).state.messages

        return self.servers[0].manage(count)


@contextmanager
def running(replicas: int, jetstream: str = DURABLE) -> Iterator[Nats]:
    """Run one server or three, as many as there are replicas of each callback."""
    with directory("nats") as path:
        if replicas == 1:
            with nats_server(path, jetstream=jetstream) as server:
                yield _nats([server])
        else:
            with nats_cluster(path, jetstream=jetstream) as servers:
                yield _nats(servers)


def _nats(servers: list[NatsServer]) -> Nats:
    addresses = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    settings = {
        "DESK_JOURNAL": f"nats://{addresses}",
        "DESK_NATS_REPLICAS": str(len(servers)),
        "DESK_NATS_MAX_BYTES": str(MAX_BYTES),
    }
    return Nats(servers, settings)


def options(urls: Iterable[str]) -> JetStreamOptions:
    """Return the options of the journal on servers."""
    return JetStreamOptions(
        access=Access(servers=tuple(urls)), stream=StreamOptions(name=STREAM, max_bytes=MAX_BYTES)
    )


def write_journal(servers: Nats, entries: Iterable[NewEntry]) -> None:
    """Make the journal of entries. It has one replica."""
    source, after = iter(entries), 0
    with closing(JetStreamTarget(options(servers.urls), uuid4().hex, first=1)) as target:
        while batch := [numbered(*each) for each in zip(islice(source, WINDOW), count(after + 1))]:
            after = target.write(after, batch)
        target.finish()

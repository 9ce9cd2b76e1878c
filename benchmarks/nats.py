"""nats-servers on loopback that hold a journal, and the settings of `desk` for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from nats.js import JetStreamContext

from benchmarks.work import directory
from tests.support.nats import NatsServer, nats_cluster, nats_server

DURABLE = "sync_interval: always"
"""The setting of JetStream with which an acknowledgement means *on disk*."""

STREAM = "desk"


class Nats(NamedTuple):
    """Running servers. `settings` are those of `desk` for a journal on all of them."""

    servers: list[NatsServer]
    settings: dict[str, str]

    @property
    def urls(self) -> str:
        return ",".join(server.url for server in self.servers)

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
    replicas = str(len(servers))
    return Nats(servers, {"DESK_JOURNAL": f"nats://{addresses}", "DESK_NATS_REPLICAS": replicas})

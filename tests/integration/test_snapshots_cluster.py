"""Snapshots on three nats-servers, of which the one that leads the object store is killed."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from nats.errors import Error

from journal import jetstream_objects
from journal.errors import Unavailable
from journal.jetstream import JetStreamOptions, JetStreamWriter
from journal.jetstream_objects import ObjectStore
from service.snapshots import loader
from service.snapshots.publisher import Publisher
from service.snapshots.stored import Snapshots
from tests.support.nats import NatsServer, at, nats_cluster
from tests.support.proxy import proxy
from tests.support.snapshots import append_large, follow, state
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.tools


class Kill:
    """Kills the server that leads a stream when a word was said so often."""

    def __init__(self, servers: list[NatsServer], stream: str, word: bytes, times: int) -> None:
        self._servers = servers
        self._stream = stream
        self._word = word
        self._left = times
        self._lock = threading.Lock()
        self.killed: NatsServer | None = None

    def __call__(self, data: bytes) -> bytes:
        with self._lock:
            self._left -= data.count(self._word)
            if self._left <= 0 and not self.killed:
                self.killed = leader_of(self._servers, self._stream)
                self.killed.stop()
        return data


def leader_of(servers: list[NatsServer], stream: str) -> NatsServer:
    def leader() -> str:
        with suppress(Error, OSError):
            cluster = servers[0].manage(lambda js: js.stream_info(stream)).cluster
            return (cluster and cluster.leader) or ""
        return ""

    return servers[int(eventually(leader).removeprefix("n")) - 1]


@contextmanager
def objects_through(
    servers: list[NatsServer], options: JetStreamOptions, kill: Kill
) -> Iterator[ObjectStore]:
    """Give the object store, and have a server killed meanwhile and started again afterwards."""
    with ExitStack() as stack:
        ways = [stack.enter_context(proxy(server.port, change=kill)) for server in servers]
        access = at(options, *(way.port for way in ways)).access
        yield stack.enter_context(closing(ObjectStore(access, options.stream)))
    assert kill.killed
    kill.killed.start()


@pytest.mark.parametrize("stream", ["OBJ_desk-views", "desk"])
def test_snapshots_are_published_and_loaded_although_the_leader_dies(
    tmp_path: Path, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "ATTEMPTS", 30)  # an election may take a busy machine long
    monkeypatch.setattr(jetstream_objects, "AGAIN_WITHIN", PATIENCE)
    with nats_cluster(tmp_path / "nats") as servers, ExitStack() as stack:
        options = at(servers[0].options("desk", replicas=3), *(each.port for each in servers))

        def opened() -> JetStreamWriter | None:
            with suppress(Unavailable):
                return JetStreamWriter(options)
            return None

        journal = stack.enter_context(closing(eventually(opened, within=60)))
        append_large(journal)
        first, second = follow(journal, tmp_path / "first"), tmp_path / "second"
        second.mkdir()
        kill = Kill(servers, stream, b'{"stream":"OBJ_', 3)
        with objects_through(servers, options, kill) as objects:
            assert Publisher(Snapshots(objects, journal, first), fewest=1).publish_if_due(0)
        kill = Kill(servers, stream, b"Nats-Subject: $O.", 3)
        with objects_through(servers, options, kill) as objects:
            loader.load(Snapshots(objects, journal, second), threading.Event())
        assert state(second)[0] == eventually(lambda: head_of(journal), within=60)
        assert state(follow(journal, second)) == state(first)


def head_of(journal: JetStreamWriter) -> int:
    with suppress(Unavailable):  # a leader is elected
        return journal.head()
    return 0

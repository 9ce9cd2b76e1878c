"""The connection over which a journal on JetStream publishes: kept, and made again when needed."""

import re
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from journal.entry import Appended
from journal.errors import AppendTimedOut
from journal.group_commit import CommitLimits
from journal.jetstream import JetStreamOptions, JetStreamWriter
from tests.support.certificates import Authority
from tests.support.journals import PATIENCE, append, new_entry, read_all
from tests.support.nats import NatsServer, nats_server
from tests.support.proxy import proxy
from tests.support.waiting import eventually

ANSWER = re.compile(rb'H?MSG \S+ \d+ \d+\r\n\{"stream":"[^\r]+"seq":\d+[^\r]*\r\n')


class Server:
    """A server behind a proxy.

    Attributes:
        connections: that were made.
        pings: that the server sent.
        is_silent: answers to publications are lost.
        delay: seconds by which all that the server says is late.
    """

    def __init__(self) -> None:
        self.connections = self.pings = 0
        self.is_silent = False
        self.delay = 0.0

    def change(self, data: bytes) -> bytes:
        self.connections += data.startswith(b"INFO ")
        self.pings += data.count(b"PING\r\n")
        threading.Event().wait(self.delay)
        return ANSWER.sub(b"", data) if self.is_silent else data


@pytest.fixture
def server() -> Server:
    return Server()


def through(port: int, options: JetStreamOptions, **access: Path) -> JetStreamOptions:
    servers = (f"nats://127.0.0.1:{port}",)
    return replace(options, access=replace(options.access, servers=servers, **access))


def test_a_connection_on_which_nothing_is_answered_is_made_again(
    nats: NatsServer, server: Server
) -> None:
    with (
        proxy(nats.port, change=server.change) as way,
        closing(JetStreamWriter(through(way.port, nats.options()))) as journal,
    ):
        append(journal, "a")
        append(journal, "b")
        used = server.connections
        server.is_silent = True
        with pytest.raises(AppendTimedOut, match="nothing was answered"):
            append(journal, "c")
        server.is_silent = False
        assert append(journal, "c") == Appended(3, duplicate=True)
        assert server.connections == used + 1


def test_a_connection_that_is_not_used_stays(tmp_path: Path, server: Server) -> None:
    with (
        nats_server(tmp_path, "ping_interval: 100ms") as nats,
        proxy(nats.port, change=server.change) as way,
        closing(
            JetStreamWriter(
                through(way.port, nats.options()), limits=CommitLimits(check_after=0.05)
            )
        ) as journal,
    ):
        append(journal, "a")
        used, pings = server.connections, server.pings
        eventually(lambda: server.pings > pings + 16)
        append(journal, "b")
        assert server.connections == used


def test_a_late_answer_is_read_from_a_connection_with_tls(tmp_path: Path, server: Server) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("nats")
    config = f"tls {{ cert_file: {own.chain}, key_file: {own.key} }}"
    with (
        nats_server(tmp_path / "nats", config) as nats,
        proxy(nats.port, change=server.change) as way,
    ):
        options = through(way.port, nats.options(), tls_ca=authority.file)
        with closing(JetStreamWriter(options)) as journal:
            append(journal, "a")
            server.delay = 0.6
            appended = journal.append(new_entry("b"), timeout=PATIENCE)
            server.delay = 0.0
            assert appended == Appended(2, duplicate=False)
            assert len(read_all(journal)) == 2

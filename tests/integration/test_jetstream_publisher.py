"""The connection over which a journal on JetStream publishes: kept, and made again when needed."""

import gc
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from journal import jetstream_publisher
from journal.entry import Appended, NewEntry
from journal.errors import AppendTimedOut, JournalError, Unavailable
from journal.group_commit import CommitLimits
from journal.jetstream import JetStreamOptions, JetStreamReader, JetStreamWriter
from journal.jetstream_access import Access
from journal.jetstream_connection import Connection, Link
from journal.jetstream_publisher import Outcome, Publisher
from journal.jetstream_wire import Wire
from tests.support.certificates import Authority
from tests.support.journals import PATIENCE, append, new_entry, read_all
from tests.support.nats import NatsServer, at, nats_server
from tests.support.proxy import Cut, proxy
from tests.support.waiting import eventually

ANSWER = re.compile(rb'H?MSG \S+ \d+ \d+\r\n\{"stream":"[^\r]+"seq":\d+[^\r]*\r\n')


class Server:
    """A server behind a proxy.

    Attributes:
        connections: that were made.
        pings: times at which the server sent one.
        is_silent: answers to publications are lost.
        delay: seconds by which all that the server says is late.
    """

    def __init__(self) -> None:
        self.connections = 0
        self.pings: list[float] = []
        self.is_silent = False
        self.delay = 0.0

    def change(self, data: bytes) -> bytes:
        self.connections += data.startswith(b"INFO ")
        self.pings += [time.monotonic()] * data.count(b"PING\r\n")
        threading.Event().wait(self.delay)
        return ANSWER.sub(b"", data) if self.is_silent else data


@pytest.fixture
def server() -> Server:
    return Server()


def test_a_connection_on_which_nothing_is_answered_is_made_again(
    nats: NatsServer, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        proxy(nats.port, change=server.change) as way,
        closing(JetStreamWriter(at(nats.options(), way.port))) as journal,
    ):
        append(journal, "a")
        append(journal, "b")
        used = server.connections
        server.is_silent = True
        with monkeypatch.context() as patch:
            patch.setattr(jetstream_publisher, "PUBLISH_WITHIN", 1.5)
            with pytest.raises(AppendTimedOut, match="nothing was answered"):
                append(journal, "c")
        server.is_silent = False
        assert append(journal, "c") == Appended(3, duplicate=True)
        assert used < server.connections <= used + 3  # one on a quiet machine


def test_a_connection_that_is_not_used_stays(tmp_path: Path, server: Server) -> None:
    def opened() -> JetStreamWriter | None:
        with suppress(Unavailable):  # a busy machine: a ping came before the end of the beginning
            options = at(nats.options(), way.port)
            return JetStreamWriter(options, limits=CommitLimits(check_after=0.05))
        return None

    with (
        nats_server(tmp_path, "ping_interval: 100ms, ping_max: 20") as nats,
        proxy(nats.port, change=server.change) as way,
        closing(eventually(opened)) as journal,
    ):

        def stays() -> bool:
            append(journal, "a")
            used, before = server.connections, len(server.pings)
            eventually(lambda: len(server.pings) > before + 24)
            append(journal, "b")
            return server.connections == used

        # A process that stops for two seconds does not answer the server's pings.
        assert any(stays() for _ in range(3))


def test_a_late_answer_is_read_from_a_connection_with_tls(tmp_path: Path, server: Server) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("nats")
    config = f"tls {{ cert_file: {own.chain}, key_file: {own.key} }}"
    with (
        nats_server(tmp_path / "nats", config) as nats,
        proxy(nats.port, change=server.change) as way,
    ):
        options = at(nats.options(), way.port, tls_ca=authority.file)
        with closing(JetStreamWriter(options)) as journal:
            append(journal, "a")
            server.delay = 0.6
            appended = journal.append(new_entry("b"), timeout=PATIENCE)
            server.delay = 0.0
            assert appended == Appended(2, duplicate=False)
            assert len(read_all(journal)) == 2


# ---- Connections that break ----


@contextmanager
def publisher(port: int, options: JetStreamOptions) -> Iterator[Publisher]:
    """Give what a journal publishes with, on a stream that is there."""

    async def accept(_link: Link) -> None:
        pass

    access = at(options, port).access
    with (
        closing(Connection(access, accept)) as connection,
        closing(Publisher(connection, access, options.stream.name)) as publisher,
    ):
        yield publisher


def entries_of(name: object, count: int, size: int = 2) -> list[NewEntry]:
    return [new_entry(f"{name}-{number}", body=b"x" * size) for number in range(count)]


def stored(options: JetStreamOptions) -> dict[bytes, int]:
    """Return revisions by id; each id must be there once."""
    with closing(JetStreamReader(options)) as journal:
        entries = read_all(journal)  # type: ignore[arg-type]
    by_id = {entry.id: entry.revision for entry in entries}
    assert len(by_id) == len(entries)
    return by_id


def revisions(entries: Sequence[NewEntry], outcomes: Sequence[Outcome]) -> dict[bytes, int]:
    assert all(isinstance(each, Appended) for each in outcomes), outcomes
    return {
        entry.id: each.revision
        for entry, each in zip(entries, outcomes, strict=True)
        if isinstance(each, Appended)
    }


class CutOnce:
    """Cuts a connection once, after the byte `place` of the first piece that matches `marker`.

    Attributes:
        length: of the piece that was cut; 0: none was yet.
    """

    def __init__(self, marker: bytes, place: int) -> None:
        self._marker = re.compile(marker)
        self._place = place
        self.length = 0

    def __call__(self, data: bytes) -> bytes:
        if not self.length and self._marker.search(data):
            self.length = len(data)
            raise Cut(data[: self._place])
        return data


def cut_everywhere(
    options: JetStreamOptions,
    count: int,
    step: int,
    publish_through: Callable[[CutOnce, Sequence[NewEntry]], Sequence[Outcome]],
    marker: bytes,
) -> None:
    """Publish entries again and again, with a cut at each place; each must be there once."""
    JetStreamWriter(options).close()
    expected: dict[bytes, int] = {}
    place = 0
    while True:
        entries, cut = entries_of(place, count), CutOnce(marker, place)
        expected |= revisions(entries, publish_through(cut, entries))
        assert cut.length
        place += step
        if place > cut.length:
            break
    assert stored(options) == expected


@pytest.mark.tools
@pytest.mark.parametrize(("count", "step"), [(1, 1), (16, 5)])
def test_an_answer_that_is_cut_at_any_byte_is_asked_for_again(
    nats: NatsServer, count: int, step: int
) -> None:
    options = nats.options()

    def publish(cut: CutOnce, entries: Sequence[NewEntry]) -> Sequence[Outcome]:
        with proxy(nats.port, change=cut) as way, publisher(way.port, options) as journal:
            return journal.publish(entries)

    cut_everywhere(options, count, step, publish, ANSWER.pattern)


@pytest.mark.tools
@pytest.mark.parametrize(("count", "step"), [(1, 5), (16, 97)])
def test_entries_that_are_cut_at_any_byte_are_published_again(
    nats: NatsServer, count: int, step: int
) -> None:
    options = nats.options()

    def publish(cut: CutOnce, entries: Sequence[NewEntry]) -> Sequence[Outcome]:
        with proxy(nats.port, change_sent=cut) as way, publisher(way.port, options) as journal:
            return journal.publish(entries)

    cut_everywhere(options, count, step, publish, rb"HPUB desk")


@pytest.mark.tools
@pytest.mark.usefixtures("publish_as_a_gateway")
def test_a_server_that_takes_no_more_bytes_ends_an_attempt_and_no_entry_is_doubled(
    nats: NatsServer,
) -> None:
    options = nats.options()
    JetStreamWriter(options).close()
    entries = entries_of("a", 24, size=500_000)
    with proxy(nats.port) as way, publisher(way.port, options) as journal:
        journal.publish(entries_of("first", 1))
        way.stall()
        outcomes = journal.publish(entries)
        assert {type(outcome) for outcome in outcomes} == {AppendTimedOut}
        way.flow()

        def published() -> Sequence[Outcome] | None:
            """Publish once more what a busy machine did not answer in time."""
            outcomes = journal.publish(entries)
            return outcomes if all(isinstance(each, Appended) for each in outcomes) else None

        outcomes = eventually(published)
        assert revisions(entries, outcomes).items() <= stored(options).items()


def test_a_server_that_drips_bytes_ends_an_attempt_and_is_asked_again(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream_publisher, "PUBLISH_WITHIN", 0.5)
    options = nats.options()
    JetStreamWriter(options).close()
    with proxy(nats.port) as way, publisher(way.port, options) as journal:
        journal.publish([new_entry("first")])
        way.drip()
        for name in "ab":  # on the connection that is there, and on a new one
            began = time.monotonic()
            [outcome] = journal.publish([new_entry(name)])
            assert isinstance(outcome, JournalError)
            assert time.monotonic() - began < 5, "an answer has some 100 bytes"


def test_a_message_of_an_impossible_size_is_not_read(nats: NatsServer, server: Server) -> None:
    sizes = iter([b"9" * 15, b"-9", b"x"])

    def enlarge(data: bytes) -> bytes:
        return ANSWER.sub(
            lambda found: found[0].replace(b"\r\n", next(sizes, b"") + b"\r\n", 1), data
        )

    options = nats.options()
    JetStreamWriter(options).close()
    with proxy(nats.port, change=enlarge) as way, publisher(way.port, options) as journal:
        assert journal.publish([new_entry("a")]) == [Appended(1, duplicate=True)]
    assert next(sizes, None) is None


def test_a_late_answer_is_not_taken_for_that_of_another_entry(nats: NatsServer) -> None:
    held: list[bytes] = []

    def hold_first(data: bytes) -> bytes:
        answers = len(ANSWER.findall(data))
        if answers and not held:
            held.append(data)
            return b""
        if answers and len(held) == 2:
            return held.pop() + data
        if answers:
            held.append(held[0])
        return data

    options = nats.options()
    JetStreamWriter(options).close()
    with proxy(nats.port, change=hold_first) as way, publisher(way.port, options) as journal:
        assert journal.publish([new_entry("a")]) == [Appended(1, duplicate=True)]
        assert journal.publish([new_entry("b")]) == [Appended(2, duplicate=False)]
        assert journal.publish([new_entry("c")]) == [Appended(3, duplicate=False)]


# ---- Servers that take no connection ----


def test_a_server_that_takes_no_more_connections_is_left_for_another(nats: NatsServer) -> None:
    options = nats.options()
    JetStreamWriter(options).close()
    with proxy(nats.port) as way:
        servers = (f"nats://127.0.0.1:{way.port}", nats.url)
        several = replace(options, access=Access(servers=servers))
        while True:
            with closing(JetStreamWriter(several)) as journal:
                if way.is_used():
                    way.refuse()
                    assert append(journal, "a").revision == 1
                    break


def test_a_server_that_hangs_up_on_a_connection_leaves_no_failed_task(
    nats: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    def hang_up(data: bytes) -> bytes:
        if b"PONG" in data:
            raise Cut(b"")
        return data

    async def accept(_link: Link) -> None:
        pass

    with (
        proxy(nats.port, change=hang_up) as way,
        pytest.raises(Unavailable, match="the connection was closed"),
    ):
        Connection(at(nats.options(), way.port).access, accept)
    gc.collect()  # asyncio complains when a task is deleted
    assert [record.getMessage() for record in caplog.records] == []


def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("nats", "DNS:other.example")
    config = f"tls {{ cert_file: {own.chain}, key_file: {own.key} }}"
    with nats_server(tmp_path / "nats", config) as nats:
        access = replace(nats.options().access, tls_ca=authority.file)
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            Wire(access, nats.url)

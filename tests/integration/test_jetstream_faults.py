"""The journal on JetStream before servers that are frozen, wrong, changed, or hostile."""

import json
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import nkeys
import pytest
from nats.js import JetStreamContext

from journal.entry import Appended
from journal.errors import AppendTimedOut, TooLarge, Unavailable
from journal.jetstream import JetStreamOptions, JetStreamReader, JetStreamWriter
from journal.jetstream_access import Access
from tests.support.certificates import Authority
from tests.support.journals import PATIENCE, append, new_entry, read_all
from tests.support.nats import NatsServer, at, nats_server
from tests.support.proxy import Proxy, proxy
from tests.support.waiting import eventually


def appended(journal: JetStreamWriter, name: object, body: bytes = b"{}") -> bool:
    with suppress(Unavailable):
        return bool(append(journal, name, body=body).revision)
    return False


# ---- A stream that is changed under a running process ----


def test_a_stream_that_is_replaced_gets_no_entries_of_the_old_journal(
    nats: NatsServer, options: JetStreamOptions, journal: JetStreamWriter
) -> None:
    async def remove(js: JetStreamContext) -> None:
        await js.delete_stream(options.stream.name)

    append(journal, "a")
    nats.manage(remove)
    eventually(lambda: "is gone" in journal.trouble())
    with closing(JetStreamWriter(options)) as other:
        append(other, "b")
        eventually(lambda: "holds another journal now" in journal.trouble())
        with pytest.raises(Unavailable):
            append(journal, "c")
        assert [entry.request_id for entry in read_all(other)] == ["request-b"]


@pytest.mark.tools
def test_a_setting_that_is_changed_is_noticed_and_so_is_its_repair(
    nats: NatsServer, options: JetStreamOptions, journal: JetStreamWriter
) -> None:
    def set_age(seconds: float) -> None:
        async def change(js: JetStreamContext) -> None:
            config = (await js.stream_info(options.stream.name)).config
            await js.update_stream(config, max_age=seconds)

        nats.manage(change)

    set_age(3600)
    eventually(lambda: "max_age is 3600.0, must be 0.0" in journal.trouble())
    with pytest.raises(Unavailable):
        append(journal, "a")
    set_age(0)
    eventually(lambda: appended(journal, "a"))


# ---- Servers of which one is of no use ----


def test_a_server_without_jetstream_is_passed_over(
    nats: NatsServer, options: JetStreamOptions, journal: JetStreamWriter, tmp_path: Path
) -> None:
    bare = NatsServer(tmp_path)
    bare.configure(has_jetstream=False)
    bare.start()
    try:
        for _ in range(4):
            with closing(opened(at(options, bare.port, nats.port))) as reader:
                assert reader.id == journal.id
    finally:
        bare.stop()


def opened(options: JetStreamOptions) -> JetStreamReader:
    """Open a journal as soon as that is possible."""

    def open_() -> JetStreamReader | None:
        with suppress(Unavailable):
            return JetStreamReader(options)
        return None

    return eventually(open_)


def test_a_server_that_is_too_old_is_passed_over(
    nats: NatsServer, options: JetStreamOptions
) -> None:
    with proxy(nats.port, change=lambda data: data.replace(b'"2.15.', b'"2.14.')) as old:
        for _ in range(4):
            with closing(JetStreamWriter(at(options, old.port, nats.port))) as journal:
                assert journal.trouble() == ""


@pytest.mark.tools
@pytest.mark.parametrize("pings", [True, False], ids=["answers pings", "is frozen"])
def test_a_server_that_answers_no_more_is_left_for_another(
    nats: NatsServer, options: JetStreamOptions, pings: bool
) -> None:
    silent = threading.Event()

    def change(data: bytes) -> bytes:
        return b"PONG\r\n" * data.count(b"PONG") if silent.is_set() else data

    with proxy(nats.port, change=change) as way:
        assert_is_left(way, nats, options, (silent.set if pings else way.stall))


def assert_is_left(
    way: Proxy, nats: NatsServer, options: JetStreamOptions, spoil: Callable[[], None]
) -> None:
    """Spoil the way of a journal that has another one."""
    with proxy(nats.port) as other, ExitStack() as stack:
        several = at(options, way.port, other.port)
        while not way.is_used():
            stack.close()
            journal = stack.enter_context(closing(JetStreamWriter(several)))
        append(journal, "a")
        spoil()
        eventually(lambda: appended(journal, "b", b"x" * 4_000_000))


# ---- Answers ----

ACKNOWLEDGED = re.compile(rb'\{"stream":"[^"]+","seq":1\}')


def with_long_name(options: JetStreamOptions) -> JetStreamOptions:
    """Make room in the acknowledgement for what a proxy puts in its place."""
    return replace(options, stream=replace(options.stream, name=options.stream.name.ljust(32, "-")))


@pytest.mark.parametrize(
    "error",
    [b'"code":409,"err_code":10158', b'"code":429', b'"code":503'],
    ids=["in process", "too many requests", "no leader"],
)
def test_what_may_do_better_at_once_is_published_again(
    nats: NatsServer, options: JetStreamOptions, error: bytes
) -> None:
    def change(data: bytes) -> bytes:
        refused = b'{"error":{%b}}' % error
        return ACKNOWLEDGED.sub(lambda found: refused.ljust(len(found[0])), data)

    way = with_long_name(options)
    with (
        proxy(nats.port, change=change) as refusing,
        closing(JetStreamWriter(at(way, refusing.port))) as journal,
    ):
        assert append(journal, "a") == Appended(1, duplicate=True)


@pytest.mark.usefixtures("publish_as_a_gateway")
def test_a_refusal_that_lasts_is_named(nats: NatsServer, options: JetStreamOptions) -> None:
    def change(data: bytes) -> bytes:
        refused = b'{"error":{"code":503,"description":"no"}}'
        return re.sub(
            rb'\{"stream":"[^}]+"seq":1[^}]*\}', lambda found: refused.ljust(len(found[0])), data
        )

    way = with_long_name(options)
    with (
        proxy(nats.port, change=change) as refusing,
        closing(JetStreamWriter(at(way, refusing.port))) as journal,
        pytest.raises(AppendTimedOut, match=r"NATS did not confirm the entry in time: no$"),
    ):
        append(journal, "a")


def test_an_answer_that_comes_while_the_entry_is_published_again_counts(
    nats: NatsServer, options: JetStreamOptions
) -> None:
    def delay(data: bytes) -> bytes:
        if ACKNOWLEDGED.search(data):
            threading.Event().wait(0.6)
        return data

    with (
        proxy(nats.port, change=delay) as slow,
        closing(JetStreamWriter(at(options, slow.port))) as journal,
    ):
        assert append(journal, "a") == Appended(1, duplicate=False)


def test_headers_count_for_the_size_of_a_message(tmp_path: Path) -> None:
    with nats_server(tmp_path) as server:
        server.stop()
        server.configure("max_payload: 65536")
        server.start()
        with closing(server.writer()) as journal:
            longest = "\N{GRINNING FACE}" * 128
            entry = new_entry(
                "a", body=b"x" * 61_000, request_id=longest, client_ip=longest, platform=longest
            )
            with pytest.raises(TooLarge):
                journal.append(entry, timeout=PATIENCE)
            assert journal.append(new_entry("b", body=b"x" * 65_000), timeout=PATIENCE).revision


# ---- Credentials ----


def test_a_wrong_password_is_named(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("wrong")
    with nats_server(tmp_path, "authorization { user: desk, password: right }") as server:
        access = Access(servers=(server.url,), user="desk", password_file=password)
        options = replace(server.options(), access=access)
        for _ in range(10):
            with pytest.raises(Unavailable, match="Authorization Violation"):
                JetStreamWriter(options)
        password.write_text("right")
        JetStreamWriter(options).close()


def test_a_seed_that_is_changed_is_used_and_a_broken_one_repaired(tmp_path: Path) -> None:
    seed, config = tmp_path / "seed", "authorization {{ users: [ {{ nkey: {} }} ] }}"
    first, second = (nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER) for _ in "12")
    seed.write_bytes(first)
    with nats_server(tmp_path, config.format(public(first))) as server:
        access = Access(servers=(server.url,), nkey=seed)
        with closing(JetStreamWriter(replace(server.options(), access=access))) as journal:
            append(journal, "a")
            seed.write_bytes(b"broken")
            server.stop()
            server.configure(config.format(public(second)))
            server.start()
            eventually(lambda: "invalid seed" in journal.trouble())
            seed.write_bytes(second)
            eventually(lambda: appended(journal, "b"))
            assert len(read_all(journal)) == 2


def public(seed: bytes) -> str:
    return nkeys.from_seed(bytearray(seed)).public_key.decode()


@pytest.mark.parametrize("setting", ["creds", "nkey", "tls_ca", "tls_cert"])
def test_a_file_that_cannot_be_used_is_named(
    nats: NatsServer, options: JetStreamOptions, tmp_path: Path, setting: str
) -> None:
    file = tmp_path / "file"
    file.write_text("garbage")
    access = replace(options.access, **{setting: file})
    with pytest.raises(Unavailable, match=f"{file}"):
        JetStreamWriter(replace(options, access=access))


class Impostor(threading.Thread):
    """A server that breaks off connections with TLS, and then offers none.

    Attributes:
        heard: the bytes that it got in clear.
    """

    def __init__(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(daemon=True)
        self.heard: list[bytes] = []
        self._listener = listener
        self._context = context

    def run(self) -> None:
        with suppress(OSError):
            for turn in count():
                with self._listener.accept()[0] as connection, suppress(OSError):
                    self._talk(connection, has_tls=turn % 2 == 0)

    def _talk(self, connection: socket.socket, *, has_tls: bool) -> None:
        info = {"version": "2.15.1", "max_payload": 1, "headers": True, "tls_required": has_tls}
        connection.sendall(f"INFO {json.dumps(info)}\r\n".encode())
        if has_tls:
            self._context.wrap_socket(connection, server_side=True).close()
        else:
            self.heard.append(connection.recv(1000))


def test_nothing_is_said_in_clear_where_tls_is_required(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own, password = authority.issue("nats"), tmp_path / "password"
    password.write_text("secret")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.chain, own.key)
    config = (
        f"tls {{ cert_file: {own.chain}, key_file: {own.key} }}\n"
        "authorization { user: desk, password: secret }"
    )
    with nats_server(tmp_path, config) as server:
        access = Access(
            servers=(server.url,), user="desk", password_file=password, tls_ca=authority.file
        )
        with closing(JetStreamWriter(replace(server.options(), access=access))):
            server.stop()
            with socket.create_server(("127.0.0.1", server.port)) as listener:
                impostor = Impostor(listener, context)
                impostor.start()
                eventually(lambda: len(impostor.heard) > 1)
    assert not any(impostor.heard)


def test_the_systems_authorities_are_read_for_a_handshake_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("nats")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    config = f"tls {{ cert_file: {own.chain}, key_file: {own.key} }}"
    with nats_server(tmp_path, config) as server:
        options = replace(server.options(), access=Access(servers=(server.url,)))
        assert options.access.tls().get_ca_certs() == [], "nothing was read before a handshake"
        with closing(JetStreamWriter(options)) as journal:  # publishes and reads, by either client
            assert appended(journal, 1)
            assert len(read_all(journal)) == 1


def test_the_end_of_a_connection_with_tls_makes_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("nats")
    config = f"tls {{ cert_file: {own.chain}, key_file: {own.key} }}"
    with nats_server(tmp_path, config) as server:
        access = Access(servers=(server.url,), tls_ca=authority.file)
        with closing(JetStreamWriter(replace(server.options(), access=access))) as journal:
            server.stop()
            eventually(journal.trouble)
    assert [each for each in caplog.records if each.name == "asyncio"] == []

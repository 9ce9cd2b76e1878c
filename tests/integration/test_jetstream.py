"""The journal on JetStream where it differs from other engines, with a real nats-server."""

import os
import random
import signal
import threading
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import nkeys
import pytest
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg, StreamConfig

from journal.entry import Appended
from journal.errors import AppendTimedOut, JournalError, NotKept, Unavailable, Unreadable
from journal.jetstream import JetStreamOptions, JetStreamReader, JetStreamWriter
from journal.jetstream_access import Access
from journal.spool import SpooledWriter
from tests.support.certificates import Authority
from tests.support.journals import PATIENCE, append, append_together, new_entry, read_all
from tests.support.nats import MIB, NatsServer, at, nats_server, operator_config
from tests.support.proxy import proxy
from tests.support.waiting import eventually


def name_of(options: JetStreamOptions) -> str:
    return options.stream.name


def refused(options: JetStreamOptions) -> str:
    with pytest.raises(Unreadable) as error:
        JetStreamReader(options)
    return str(error.value)


# ---- The stream ----


def test_a_reader_waits_for_the_stream_to_be_made(options: JetStreamOptions) -> None:
    with pytest.raises(Unavailable, match=f"there is no stream {name_of(options)} yet"):
        JetStreamReader(options)
    with closing(JetStreamWriter(options)) as writer, closing(JetStreamReader(options)) as reader:
        assert reader.id == writer.id


def test_a_stream_that_breaks_a_rule_is_refused(
    nats: NatsServer, options: JetStreamOptions
) -> None:
    name = name_of(options)

    async def make(js: JetStreamContext) -> None:
        await js.add_stream(StreamConfig(name=name, subjects=[f"{name}.*.*"]))

    nats.manage(make)
    assert refused(options) == f"the stream {name} is not a journal: it has no desk-journal-id"


def test_a_stream_with_too_few_replicas_is_refused(options: JetStreamOptions) -> None:
    JetStreamWriter(options).close()
    stricter = replace(options, stream=replace(options.stream, replicas=3))
    assert "num_replicas is 1, must be at least 3" in refused(stricter)


def test_an_old_server_is_refused(nats: NatsServer, options: JetStreamOptions) -> None:
    with proxy(nats.port, change=lambda data: data.replace(b'"2.15.', b'"2.14.')) as old:
        line = refused(at(options, old.port))
    assert line.startswith("nats-server 2.14.")
    assert line.endswith("is too old: 2.15 or newer is needed")


def test_a_server_that_is_not_there_is_unavailable(options: JetStreamOptions) -> None:
    with pytest.raises(Unavailable, match=r"NATS at nats://127.0.0.1:1: .*Connect call failed"):
        JetStreamReader(at(options, 1))


def test_a_stream_that_cannot_be_made_is_unavailable_and_the_reason_is_named(
    nats: NatsServer, options: JetStreamOptions
) -> None:
    async def take(js: JetStreamContext) -> None:
        await js.add_stream(name=f"{name_of(options)}-other", subjects=[f"{name_of(options)}.1.*"])

    nats.manage(take)
    with pytest.raises(Unavailable, match="subjects overlap with an existing stream"):
        JetStreamWriter(options)


def test_writers_that_start_together_make_one_journal(options: JetStreamOptions) -> None:
    writers: list[JetStreamWriter] = []
    starts = [
        threading.Thread(target=lambda: writers.append(JetStreamWriter(options))) for _ in range(4)
    ]
    for start in starts:
        start.start()
    for start in starts:
        start.join(PATIENCE)
    assert len({writer.id for writer in writers}) == 1
    assert len(writers) == 4
    for writer in writers:
        writer.close()


# ---- Any number of writers ----


def test_many_writers_share_one_order_and_recognise_each_others_entries(
    options: JetStreamOptions,
) -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(closing(JetStreamWriter(options))) for _ in range(2))
        done: list[list[dict[object, Appended]]] = []
        threads = [
            threading.Thread(target=lambda w=w: done.append(append_together(w, [list(range(50))])))
            for w in (first, second)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        (one,), (other,) = done
        assert {n: each.revision for n, each in one.items()} == {
            n: each.revision for n, each in other.items()
        }
        assert len(read_all(first)) == 50
        late = append(second, "late")
        assert first.wait(late.revision - 1, timeout=PATIENCE)


def test_a_batch_with_repetitions_keeps_what_is_new(journal: JetStreamWriter) -> None:
    known = [append(journal, name).revision for name in range(40)]
    outcomes: dict[object, Appended] = {}
    for mine in append_together(journal, [[name] for name in range(140)]):
        outcomes |= mine
    assert [outcomes[name] for name in range(40)] == [Appended(each, True) for each in known]
    new = [outcomes[name] for name in range(40, 140)]
    assert not any(each.duplicate for each in new)
    stored = {entry.id: entry.revision for entry in read_all(journal)}
    assert stored == {new_entry(name).id: each.revision for name, each in outcomes.items()}


# ---- Messages ----


def test_an_entry_is_a_readable_message(
    journal: JetStreamWriter, nats: NatsServer, options: JetStreamOptions
) -> None:
    entry = new_entry("a", body=b'{"SessionId":"s"}')
    revision = journal.append(entry, timeout=PATIENCE).revision

    async def get(js: JetStreamContext) -> RawStreamMsg:
        return await js.get_msg(name_of(options), revision)

    found = nats.manage(get)
    assert found.data == entry.body
    assert found.headers is not None
    assert found.headers["Nats-Msg-Id"] == entry.id.hex()
    assert found.headers["Desk-Request-Id"] == "request-a"


def test_a_message_of_somebody_else_is_read_as_a_damaged_entry(
    journal: JetStreamWriter, nats: NatsServer, options: JetStreamOptions
) -> None:
    append(journal, "a")

    async def publish(js: JetStreamContext) -> None:
        await js.publish(f"{name_of(options)}.1.aa", b"hello", headers={"a": "b"})

    nats.manage(publish)
    append(journal, "b")
    assert [entry.body for entry in read_all(journal)][1] == b"hello"


# ---- Gaps ----


def test_a_removed_beginning_is_reported_and_a_removed_middle_is_skipped(
    journal: JetStreamWriter, nats: NatsServer, options: JetStreamOptions
) -> None:
    revisions = [append(journal, n).revision for n in range(10)]

    async def remove(js: JetStreamContext) -> None:
        await js.purge_stream(name_of(options), seq=revisions[4])
        await js.delete_msg(name_of(options), revisions[6])

    nats.manage(remove)
    with pytest.raises(NotKept) as removed:
        journal.read(0, limit=10)
    assert removed.value.oldest == revisions[4] == journal.oldest()
    rest = journal.read(revisions[4] - 1, limit=10)
    assert [entry.revision for entry in rest] == [*revisions[4:6], *revisions[7:]]


def test_a_journal_of_which_all_was_removed_is_no_empty_one(
    journal: JetStreamWriter, nats: NatsServer, options: JetStreamOptions
) -> None:
    revision = append(journal).revision

    async def remove(js: JetStreamContext) -> None:
        await js.purge_stream(name_of(options))

    nats.manage(remove)
    with pytest.raises(NotKept):
        journal.read(0, limit=10)
    assert journal.read(revision, limit=10) == []
    assert journal.head() == revision
    assert append(journal, "next").revision == revision + 1


# ---- A server that is full, killed, frozen, replaced ----


def test_a_full_stream_refuses_and_says_so(nats: NatsServer) -> None:
    with closing(nats.writer(max_bytes=MIB)) as journal:
        kept = [append(journal, n, body=b"x" * 100_000).revision for n in range(10)]
        with pytest.raises(Unavailable, match="maximum bytes exceeded"):
            append(journal, "more", body=b"x" * 100_000)
        assert journal.trouble() == "JetStream refuses entries: maximum bytes exceeded"
        assert [entry.revision for entry in read_all(journal)] == kept


def test_appends_go_on_after_a_restart_of_the_server(own_nats: NatsServer) -> None:
    with closing(own_nats.writer("desk")) as journal:
        first = append(journal, "a")
        own_nats.stop()
        with pytest.raises(Unavailable):
            journal.append(new_entry("b"), timeout=0.2)
        assert "NATS at nats://127.0.0.1" in eventually(journal.trouble)
        own_nats.start()
        eventually(lambda: not journal.trouble())
        assert append(journal, "a") == Appended(first.revision, duplicate=True)
        append(journal, "b")
        assert {entry.request_id for entry in read_all(journal)} == {"request-a", "request-b"}


def test_no_acknowledged_entry_is_lost_or_doubled_when_the_server_is_killed(
    own_nats: NatsServer,
) -> None:
    acknowledged: dict[bytes, int] = {}
    stop = threading.Event()

    def work(thread: int) -> None:
        n = 0
        while not stop.is_set():
            entry = new_entry(f"{thread}-{n}")
            try:
                acknowledged[entry.id] = journal.append(entry, timeout=1.5).revision
                n += 1
            except Unavailable:  # again, with the same id
                stop.wait(0.02)

    with closing(own_nats.writer("desk")) as journal:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for kills in (1, 2):
            eventually(lambda: len(acknowledged) > 100 * kills)  # noqa: B023
            own_nats.stop(signal.SIGKILL)
            own_nats.start()
        eventually(lambda: len(acknowledged) > 300)
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
        stored = [(entry.id, entry.revision) for entry in read_all(journal)]
    assert acknowledged.items() <= dict(stored).items()
    assert len(stored) == len(dict(stored))


def test_a_frozen_server_delays_nobody_beyond_the_timeout(own_nats: NatsServer) -> None:
    with closing(own_nats.writer("desk")) as journal:
        append(journal, "a")
        own_nats.freeze()
        with pytest.raises(AppendTimedOut):
            journal.append(new_entry("b"), timeout=0.3)
        assert eventually(journal.trouble)
        own_nats.thaw()
        eventually(lambda: not journal.trouble())
        append(journal, "b")
        assert len(read_all(journal)) == 2


def test_a_stream_that_was_replaced_is_refused(own_nats: NatsServer) -> None:
    async def remove(js: JetStreamContext) -> None:
        await js.delete_stream("desk")

    with closing(own_nats.writer("desk")) as journal:
        append(journal, "a")
        own_nats.manage(remove)
        with closing(own_nats.writer("desk")) as other:
            append(other, "b")
            own_nats.stop()
            own_nats.start()
            eventually(lambda: "holds another journal now" in journal.trouble())
            with pytest.raises(Unavailable):
                journal.append(new_entry("c"), timeout=0.2)
            eventually(lambda: not other.trouble())
            assert [entry.request_id for entry in read_all(other)] == ["request-b"]


def test_a_stream_that_is_gone_is_not_made_again_by_a_running_writer(
    own_nats: NatsServer,
) -> None:
    async def remove(js: JetStreamContext) -> None:
        await js.delete_stream("desk")

    with closing(own_nats.writer("desk")) as journal:
        own_nats.manage(remove)
        own_nats.stop()
        own_nats.start()
        eventually(lambda: "the stream desk is gone" in journal.trouble())


def test_a_gateway_that_has_had_a_journal_makes_no_other_one(
    nats: NatsServer, options: JetStreamOptions, tmp_path: Path
) -> None:
    async def remove(js: JetStreamContext) -> None:
        await js.delete_stream(name_of(options))

    def spooled() -> SpooledWriter:
        def open_(journal_id: str) -> JetStreamWriter:
            return JetStreamWriter(options, may_create=not journal_id)

        return SpooledWriter(open_, tmp_path / "spool", max_bytes=MIB)

    with closing(spooled()) as journal:
        append(journal, "a")
    nats.manage(remove)
    with closing(spooled()) as journal:
        assert append(journal, "b").revision == 0
        assert f"there is no stream {name_of(options)}, and a spool" in journal.notice()
    with pytest.raises(Unavailable, match="there is no stream"):
        JetStreamReader(options)


@pytest.mark.tools
def test_a_journal_closes_although_the_server_has_just_been_killed(own_nats: NatsServer) -> None:
    """A task of nats-py swallows a cancellation at some moments of a reconnect."""
    jitter = random.Random(1)
    for n in range(100):
        journal = own_nats.writer("desk")
        append(journal, n)
        own_nats.stop()
        time.sleep(jitter.choice([0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2]))
        closing_ = threading.Thread(target=journal.close, daemon=True)
        closing_.start()
        closing_.join(PATIENCE / 2)
        assert not closing_.is_alive()
        own_nats.start()


# ---- Credentials ----

PUBLISHED = (
    "desk.*.*",
    "$JS.API.STREAM.CREATE.desk",
    "$JS.API.STREAM.INFO.desk",
    "$JS.API.STREAM.MSG.GET.desk",
    "$JS.API.DIRECT.GET.desk",
)
"""The subjects to which a gateway must be allowed to publish, as docs/cluster.md has them."""


@pytest.mark.parametrize("given", ["right", "wrong"])
def test_a_password_from_a_file_signs_in(tmp_path: Path, given: str) -> None:
    password = tmp_path / "password"
    password.write_text(f"{given}\n")
    publish = ", ".join(map(repr, PUBLISHED))
    config = (
        "authorization { users: [ { user: desk, password: right, permissions { "
        f'publish: [{publish}], subscribe: ["_INBOX.>", "desk-new"] }} }} ] }}'
    )
    with nats_server(tmp_path / "nats", config) as server:
        access = Access(servers=(server.url,), user="desk", password_file=password)
        options = replace(server.options("desk"), access=access)
        if given == "right":
            check_works(options)
        else:
            with pytest.raises(Unavailable, match="Authorization Violation"):
                JetStreamWriter(options)


def test_a_seed_from_a_file_signs_in(tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    seed.write_bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER) + b"\n")
    public = nkeys.from_seed(bytearray(seed.read_bytes().strip())).public_key.decode()
    config = f"authorization {{ users: [ {{ nkey: {public} }} ] }}"
    with nats_server(tmp_path / "nats", config) as server:
        access = Access(servers=(server.url,), nkey=seed)
        check_works(replace(server.options(), access=access))


def test_credentials_of_an_account_sign_in(tmp_path: Path) -> None:
    creds = tmp_path / "creds"
    with nats_server(tmp_path / "nats", operator_config(creds)) as server:
        access = Access(servers=(server.url,), creds=creds)
        check_works(replace(server.options(), access=access))


def test_tls_with_certificates_of_both_sides(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own, ours = authority.issue("nats"), authority.issue("desk")
    config = (
        f"tls {{ cert_file: {own.chain}, key_file: {own.key}, "
        f"ca_file: {authority.file}, verify: true }}"
    )
    with nats_server(tmp_path / "nats", config) as server:
        access = Access(
            servers=(server.url,), tls_ca=authority.file, tls_cert=ours.chain, tls_key=ours.key
        )
        check_works(replace(server.options(), access=access))


def test_a_server_without_tls_is_refused_where_tls_is_required(
    nats: NatsServer, tmp_path: Path
) -> None:
    access = Access(servers=(nats.url,), tls_ca=Authority(tmp_path).file)
    with pytest.raises(JournalError, match="offers no TLS"):
        JetStreamWriter(replace(nats.options(), access=access))


def check_works(options: JetStreamOptions) -> None:
    with closing(JetStreamWriter(options)) as journal:
        append(journal, "a")
        assert [entry.request_id for entry in read_all(journal)] == ["request-a"]


# ---- The network ----


def test_a_cut_connection_is_made_again(nats: NatsServer, options: JetStreamOptions) -> None:
    with proxy(nats.port) as way, closing(JetStreamWriter(at(options, way.port))) as journal:
        for n in range(5):
            append(journal, n)
            way.cut()
        eventually(lambda: number_of_entries(journal) == 5)


def number_of_entries(journal: JetStreamWriter) -> int:
    """Count what can be read; -1 if the cut of the connection has only been noticed by the read."""
    try:
        return len(read_all(journal))
    except Unavailable:
        return -1


def test_a_message_that_got_lost_on_the_way_makes_no_gap(
    nats: NatsServer, options: JetStreamOptions
) -> None:
    def lose(data: bytes) -> bytes:
        return data.replace(b"Nats-Last-Sequence: 3\r\n", b"Nats-Last-Sequence: 2\r\n")

    with (
        proxy(nats.port, change=lose) as way,
        closing(JetStreamWriter(at(options, way.port))) as journal,
    ):
        revisions = [append(journal, n).revision for n in range(6)]
        assert [entry.revision for entry in journal.read(0, limit=6)] == revisions[:3]
        assert [entry.revision for entry in read_all(journal)] == revisions

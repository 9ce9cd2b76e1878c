"""Deletion in a stream: what the reader makes of it, and what is left in the servers' files."""

import random
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from nats.errors import Error

from journal.entry import Entry
from journal.errors import NotKept, Unavailable
from journal.forgetting import forget_entry
from journal.jetstream import JetStreamOptions, JetStreamWriter
from journal.jetstream_access import Access
from journal.jetstream_eraser import JetStreamEraser
from tests.support import callbacks
from tests.support.callbacks import life
from tests.support.journals import append, read_all
from tests.support.nats import NatsServer, nats_cluster
from tests.support.rpc import World
from tests.support.views import digest, read
from tests.support.waiting import eventually

APP = 1400000001

LIFE = ("SessionBegin", "ChatBot.UserSendMsg", "TransferringToHuman", "SessionEnd")


@pytest.fixture
def options(nats: NatsServer) -> JetStreamOptions:
    """Options of a journal that is not there yet."""
    return nats.options()


def name_of(options: JetStreamOptions) -> str:
    return options.stream.name


def test_a_forgotten_beginning_is_no_loss_and_a_purged_one_is(
    nats: NatsServer, options: JetStreamOptions
) -> None:
    with closing(JetStreamWriter(options)) as journal, closing(JetStreamEraser(options)) as eraser:
        revisions = [append(journal, name).revision for name in range(6)]
        forgotten = eraser.forget(forget_entry(APP, 1, session_ids=["a"]))
        eraser.delete(revisions[:4])
        later = [append(journal, name).revision for name in "xyz"]
        assert [entry.revision for entry in journal.read(1, limit=9)][:1] == [revisions[4]]
        nats.manage(lambda js: js.purge_stream(name_of(options), seq=later[-1]))
        with pytest.raises(NotKept):
            journal.read(forgotten, limit=9)


def test_a_replica_that_was_stopped_goes_on_behind_a_beginning_that_is_deleted(
    options: JetStreamOptions, tmp_path: Path
) -> None:
    with (
        closing(JetStreamWriter(options)) as journal,
        closing(JetStreamEraser(options)) as eraser,
        world(tmp_path / "stopped", journal) as stopped,
        world(tmp_path / "running", journal) as running,
    ):
        revisions = [stopped.append(*life(*LIFE[:1], session_id="gone"))]
        stopped.wait()
        stopped.stop_following()
        revisions += [stopped.append(each) for each in life(*LIFE, session_id="gone")[1:]]
        running.append(*life(*LIFE, session_id="kept"))
        running.wait()
        eraser.forget(forget_entry(callbacks.APP, 1, session_ids=["gone"]))
        running.wait()
        eraser.delete(revisions)
        assert journal.oldest() > revisions[-1]
        stopped.follow()
        stopped.wait()
        assert digest(stopped.folder) == digest(running.folder)
        assert read(stopped.folder, "SELECT count(*) FROM feed WHERE revised = 0") == [(len(LIFE),)]


@contextmanager
def world(folder: Path, journal: JetStreamWriter) -> Iterator[World]:
    """A replica that follows a journal, which stays open."""
    folder.mkdir()
    made = World(folder, journal)
    made.follow()
    yield made
    made.stop_following()


def test_a_forget_entry_has_a_subject_of_its_own(
    nats: NatsServer, options: JetStreamOptions
) -> None:
    name = name_of(options)
    with closing(JetStreamWriter(options)), closing(JetStreamEraser(options)) as eraser:
        eraser.forget(forget_entry(APP, 1, session_ids=["a"]))
    message = nats.manage(lambda js: js.get_last_msg(name, f"{name}.*.forget"))
    assert (message.data or b"").startswith(b'{"session_ids":["a"]')


def test_no_file_of_the_server_has_the_bytes_of_a_deleted_entry(
    nats: NatsServer, options: JetStreamOptions
) -> None:
    mark = b"MARKED%06d" % random.randrange(10**6)
    with closing(JetStreamWriter(options)) as journal, closing(JetStreamEraser(options)) as eraser:
        marked = fill(journal, mark, 300)
        assert any(mark in content for content in nats.contents())
        eraser.forget(forget_entry(APP, 1, session_ids=["a"]))
        eraser.delete(marked)
        assert len(read_all(journal)) == 200 + 1
    assert not any(mark in content for content in nats.contents())


@pytest.mark.tools
@pytest.mark.timeout(600)  # a server that is busy leaves its Raft log to the next compaction
def test_no_file_of_a_cluster_has_the_bytes_once_its_logs_are_compacted(tmp_path: Path) -> None:
    with nats_cluster(tmp_path) as servers:
        options = servers[0].options(replicas=3)
        all_ = Access(servers=tuple(server.url for server in servers))
        options = replace(options, access=all_)
        with closing(eventually(lambda: opened(options), within=60.0)) as journal:
            marked = fill(journal, b"MARKED01", 300)
            with closing(JetStreamEraser(options)) as eraser:
                eraser.forget(forget_entry(APP, 1, session_ids=["a"]))
                eraser.delete(marked)
            for server in servers * 2:  # it compacts its Raft logs when it ends, and now and then
                server.stop(signal.SIGTERM)
                server.start()
                eventually(lambda: are_current(servers[0], name_of(options)), within=60.0)
            eventually(lambda: not with_mark(servers), within=200.0)
            assert len(eventually(lambda: all_of(journal), within=60.0)) == 200 + 1


def all_of(journal: JetStreamWriter) -> list[Entry]:
    """Read all entries; none while a server that was just started has no leader."""
    with suppress(Unavailable):
        return read_all(journal)
    return []


def are_current(server: NatsServer, name: str) -> bool:
    """Return True if a stream has a leader, and its other replicas have all that it has."""
    with suppress(Error, OSError):
        cluster = server.manage(lambda js: js.stream_info(name)).cluster
        if cluster and cluster.leader and cluster.replicas:
            return all(replica.current for replica in cluster.replicas)
    return False


def with_mark(servers: list[NatsServer]) -> int:
    return sum(b"MARKED01" in content for server in servers for content in server.contents())


def opened(options: JetStreamOptions) -> JetStreamWriter | None:
    """Open a journal as soon as the cluster has elected its leaders."""
    with suppress(Unavailable):
        return JetStreamWriter(options)
    return None


def fill(journal: JetStreamWriter, mark: bytes, count: int) -> list[int]:
    """Append entries; return the revisions of those with the mark, every third one."""
    marked = []
    for number in range(count):
        text = mark if number % 3 == 0 else b"kept"
        revision = append(journal, number, body=text * 100).revision
        if text == mark:
            marked.append(revision)
    return marked

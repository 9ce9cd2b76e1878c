"""The journal on three nats-servers: replicas, duplicates under way, and the death of a server."""

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from journal.entry import Entry
from journal.errors import Unavailable
from journal.jetstream import JetStreamOptions, JetStreamReader, JetStreamWriter
from journal.jetstream_access import Access
from tests.support.journals import PATIENCE, append, append_together, new_entry, read_all
from tests.support.nats import NatsServer, nats_cluster
from tests.support.waiting import eventually

pytestmark = pytest.mark.tools


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[NatsServer]]:
    with nats_cluster(tmp_path, "lame_duck_grace_period: 25s, lame_duck_duration: 30s") as servers:
        yield servers


@pytest.fixture
def options(cluster: list[NatsServer]) -> JetStreamOptions:
    access = Access(servers=tuple(server.url for server in cluster))
    return replace(cluster[0].options("desk", replicas=3), access=access)


@pytest.fixture
def journals(options: JetStreamOptions) -> Iterator[list[JetStreamWriter]]:
    """Two writers."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(closing(eventually(lambda: opened(options), within=60)))
            for _ in range(2)
        ]


def opened(options: JetStreamOptions) -> JetStreamWriter | None:
    try:
        return JetStreamWriter(options)
    except Unavailable:  # the servers do not know each other yet
        return None


def test_copies_under_way_become_one_entry_with_one_revision(
    journals: list[JetStreamWriter],
) -> None:
    names: list[object] = list(range(200))
    revisions: list[dict[object, int]] = []

    def work(journal: JetStreamWriter) -> None:
        for mine in append_together(journal, [names[n::8] for n in range(8)]):
            revisions.append({name: outcome.revision for name, outcome in mine.items()})

    threads = [threading.Thread(target=work, args=(journal,)) for journal in journals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    stored = {entry.id: entry.revision for entry in read_all(journals[0])}
    assert len(stored) == len(names)
    for mine in revisions:
        for name, revision in mine.items():
            assert stored[new_entry(name).id] == revision


def test_what_was_acknowledged_survives_the_death_of_any_server(
    cluster: list[NatsServer], options: JetStreamOptions, journals: list[JetStreamWriter]
) -> None:
    acknowledged: dict[bytes, int] = {}
    stop = threading.Event()

    def work(journal: JetStreamWriter, thread: int) -> None:
        n = 0
        while not stop.is_set():
            entry = new_entry(f"{id(journal)}-{thread}-{n}")
            try:
                acknowledged[entry.id] = journal.append(entry, timeout=1.5).revision
                n += 1
            except Unavailable:  # again, with the same id
                stop.wait(0.05)

    threads = [
        threading.Thread(target=work, args=(journal, n)) for journal in journals for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for server in cluster:
        before = len(acknowledged)
        eventually(lambda: len(acknowledged) > before + 200, within=60)  # noqa: B023
        server.stop()
        before = len(acknowledged)
        eventually(lambda: len(acknowledged) > before + 200, within=60)  # noqa: B023
        assert eventually(lambda: read(journals[0]), within=60)
        server.start()
        eventually(lambda: not any(journal.trouble() for journal in journals), within=60)
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    entries = eventually(lambda: all_in(options), within=60)
    stored = [(entry.id, entry.revision) for entry in entries]
    assert acknowledged.items() <= dict(stored).items()
    assert len(stored) == len(dict(stored))


def test_a_server_that_will_end_is_left_before_it_does(
    cluster: list[NatsServer], options: JetStreamOptions
) -> None:
    with capture_logs() as lines:

        def used() -> str:
            return str([each["server"] for each in lines if each["event"] == "nats_connected"][-1])

        with closing(eventually(lambda: opened(options), within=60)) as journal:
            append(journal, "a")
            (server,) = [each for each in cluster if each.url == used()]
            server.process.send_signal(signal.SIGUSR2)  # as in an upgrade
            eventually(lambda: used() != server.url)
            assert server.process.poll() is None
            eventually(lambda: has_appended(journal, "b"))
        assert len(eventually(lambda: all_in(options), within=60)) == 2


def has_appended(journal: JetStreamWriter, name: object) -> bool:
    with suppress(Unavailable):  # a leader is elected
        return bool(append(journal, name).revision)
    return False


def read(journal: JetStreamReader) -> list[Entry]:
    try:
        return journal.read(0, limit=1)
    except Unavailable:  # no leader yet
        return []


def all_in(options: JetStreamOptions) -> list[Entry]:
    """Read all entries; none while a server that was just started has no leader."""
    entries: list[Entry] = []
    after = 0
    with suppress(Unavailable), closing(JetStreamReader(options)) as reader:
        while after < reader.head():
            for entry in reader.read(after, limit=1000):
                after = entry.revision
                entries.append(entry)
        return entries
    return []

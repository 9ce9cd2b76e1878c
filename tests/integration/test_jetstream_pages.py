"""Pages of a stream, of which the next one may have been asked for already."""

from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from journal import jetstream_pages
from journal.jetstream import JetStreamReader
from tests.support.journals import append_together
from tests.support.nats import NatsServer, nats_server

COUNT = 40


@pytest.fixture(autouse=True)
def ahead_from_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jetstream_pages, "AHEAD", 3)


def test_pages_are_the_same_in_whichever_order_they_are_read(nats: NatsServer) -> None:
    options = nats.options()
    random = Random(1)
    with closing(nats.writer(options.stream.name)) as writer:
        append_together(writer, [[name] for name in range(COUNT)])
        with closing(JetStreamReader(options)) as reader:
            after = 0
            for _ in range(200):
                limit = random.randrange(1, 12)
                page = reader.read(after, limit=limit)
                revisions = [entry.revision for entry in page]
                beyond = list(range(after + 1, COUNT + 1))[:limit]
                assert revisions == beyond[: len(revisions)]
                assert bool(revisions) == bool(beyond)
                follows = after + max(0, len(page) - 2)
                after = random.choice((follows, after + len(page), random.randrange(COUNT)))
                after %= COUNT


def test_a_follower_reads_on_after_a_restart_of_the_server(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as server:
        options = server.options()
        with closing(server.writer(options.stream.name)) as writer:
            append_together(writer, [[name] for name in range(COUNT)])
        with closing(JetStreamReader(options)) as reader:
            assert len(reader.read(0, limit=10)) == 10
            server.stop()
            server.start()
            assert [entry.revision for entry in reader.read(8, limit=10)] == list(range(9, 19))

"""Journals on a real nats-server, and one on a disk that hangs."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from journal import jetstream_publisher
from journal.jetstream import JetStreamOptions, JetStreamWriter
from tests.support.gateway import StallingJournal
from tests.support.nats import NatsServer, nats_server
from tests.support.waiting import PATIENCE

PUBLISH_WITHIN = jetstream_publisher.PUBLISH_WITHIN


@pytest.fixture(autouse=True)
def publish_patiently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish for longer than a gateway may: a busy machine answers later than Desk waits."""
    monkeypatch.setattr(jetstream_publisher, "PUBLISH_WITHIN", PATIENCE)


@pytest.fixture
def publish_as_a_gateway(publish_patiently: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish for as long as a gateway does, in tests of what happens then."""
    monkeypatch.setattr(jetstream_publisher, "PUBLISH_WITHIN", PUBLISH_WITHIN)


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A server that the test may kill."""
    with nats_server(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def options(nats: NatsServer) -> JetStreamOptions:
    """Options of a journal that is not there yet."""
    return nats.options()


@pytest.fixture
def journal(options: JetStreamOptions) -> Iterator[JetStreamWriter]:
    with closing(JetStreamWriter(options)) as journal:
        yield journal


@pytest.fixture
def disk() -> Iterator[StallingJournal]:
    with closing(StallingJournal()) as journal:
        yield journal

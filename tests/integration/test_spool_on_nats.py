"""A spool before a real nats-server that has forgotten the ids of what it took."""

import threading
from contextlib import closing
from pathlib import Path

import pytest

from journal import jetstream_stream
from journal.entry import NewEntry, unnumbered
from journal.jetstream import JetStreamOptions, JetStreamReader, JetStreamWriter
from journal.memory import MemoryJournal
from journal.port import Journal
from journal.spool import SpooledWriter
from tests.support.callbacks import entry, life
from tests.support.journals import PATIENCE, read_all
from tests.support.nats import MIB, NatsServer, at
from tests.support.proxy import proxy
from tests.support.rpc import World
from tests.support.spools import forwarded, spool
from tests.support.views import Rows, read

SESSIONS = "SELECT state, begun_at, last_event_at, queue_wait, rejected_events FROM sessions"

WINDOW = 0.2
"""Seconds: less than between two attempts to publish."""

LIFE = ("SessionBegin", "ChatBot.UserSendMsg", "TransferringToHuman", "TransferToHumanSuccess")

CALLBACKS = [unnumbered(entry(1, each)) for each in (*life(*LIFE), b"not json")]


@pytest.fixture(autouse=True)
def short_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have NATS recognise repetitions for a moment only."""
    monkeypatch.setattr(jetstream_stream, "DUPLICATE_WINDOW", WINDOW)


def test_callbacks_that_are_forwarded_when_nats_has_forgotten_them_are_in_no_view_twice(
    nats: NatsServer, options: JetStreamOptions, tmp_path: Path
) -> None:
    is_silent = threading.Event()

    def lose_answers(data: bytes) -> bytes:
        return b"" if is_silent.is_set() and b'{"stream":"' in data else data

    def open_(_: str) -> JetStreamWriter:
        return JetStreamWriter(through)

    with proxy(nats.port, change=lose_answers) as way:
        through = at(options, way.port)
        with closing(SpooledWriter(open_, tmp_path / "spool", max_bytes=100 * MIB)) as journal:
            is_silent.set()
            for callback in CALLBACKS:
                spool(journal, callback)
            threading.Event().wait(2 * WINDOW)
            is_silent.clear()
            forwarded(journal)
    with closing(JetStreamReader(options)) as stream:
        ids = [each.id for each in read_all(stream)]  # type: ignore[arg-type]
        assert len(ids) > len(set(ids)) == len(CALLBACKS)
        assert shown(stream, tmp_path / "stream") == shown(once(CALLBACKS), tmp_path / "once")


def once(callbacks: list[NewEntry]) -> MemoryJournal:
    journal = MemoryJournal()
    for each in callbacks:
        journal.append(each, timeout=PATIENCE)
    return journal


def shown(journal: Journal | JetStreamReader, folder: Path) -> tuple[Rows, Rows]:
    """Follow a journal, and return what the view has of sessions and callbacks."""
    folder.mkdir()
    world = World(folder, journal)
    world.follow()
    world.wait()
    world.stop_following()
    return read(folder, "SELECT revised, verdict FROM feed ORDER BY 1, 2"), read(folder, SESSIONS)

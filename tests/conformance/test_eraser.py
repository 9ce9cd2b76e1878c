"""The promises of `journal.port.Eraser`, for every engine."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from journal import jetstream_publisher
from journal.entry import Kind, unnumbered
from journal.forgetting import forget_entry
from journal.jetstream import JetStreamWriter
from journal.jetstream_eraser import JetStreamEraser
from journal.memory import MemoryJournal
from journal.port import Eraser, Journal
from journal.sqlite import SqliteWriter
from journal.sqlite_eraser import SqliteEraser
from tests.support.journals import PATIENCE, append, append_together, new_entry, read_all
from tests.support.nats import NatsServer

APP = 1400000001


class Parts(NamedTuple):
    """A journal, and an eraser of it."""

    journal: Journal
    eraser: Eraser


def memory(_request: pytest.FixtureRequest, _directory: Path) -> Parts:
    journal = MemoryJournal()
    return Parts(journal, journal)


def sqlite(_request: pytest.FixtureRequest, directory: Path) -> Parts:
    journal = SqliteWriter(directory / "journal.db")
    return Parts(journal, SqliteEraser(directory / "journal.db"))


def jetstream(request: pytest.FixtureRequest, _directory: Path) -> Parts:
    server: NatsServer = request.getfixturevalue("nats")
    patched = request.getfixturevalue("monkeypatch")
    patched.setattr(jetstream_publisher, "PUBLISH_WITHIN", PATIENCE)  # on a busy machine
    options = server.options()
    return Parts(JetStreamWriter(options), JetStreamEraser(options))


Open = Callable[[pytest.FixtureRequest, Path], Parts]


@pytest.fixture(params=[memory, sqlite, jetstream], ids=lambda engine: engine.__name__)
def parts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Parts]:
    open_: Open = request.param
    parts = open_(request, tmp_path)
    yield parts
    parts.eraser.close()
    parts.journal.close()


def forget(parts: Parts) -> int:
    return parts.eraser.forget(forget_entry(APP, 1, session_ids=["a"]))


def revisions(parts: Parts) -> list[int]:
    return [entry.revision for entry in read_all(parts.journal)]


def test_a_forget_entry_is_durable_behind_all_others_and_there_once(parts: Parts) -> None:
    before = append(parts.journal).revision
    entry = forget_entry(APP, 1, session_ids=["a"], revisions=[before], up_to=before)
    revision = parts.eraser.forget(entry)
    assert parts.eraser.forget(entry) == revision > before
    (read,) = parts.journal.read(before, limit=10)
    assert (read.revision, unnumbered(read), read.kind) == (revision, entry, Kind.FORGET)
    assert append(parts.journal, "later").revision > revision


def test_deleted_entries_are_gone_and_the_others_stay_as_they_were(parts: Parts) -> None:
    all_ = [append(parts.journal, name).revision for name in range(30)]
    head = forget(parts)
    kept = [entry for entry in read_all(parts.journal) if entry.revision not in all_[::3]]
    for _ in range(2):  # the second time after a crash
        parts.eraser.delete(all_[::3])
        parts.eraser.sweep()
        assert read_all(parts.journal) == kept
        assert parts.journal.head() == head


def test_reading_begins_behind_a_beginning_that_was_forgotten(parts: Parts) -> None:
    first, second, third = [append(parts.journal, name).revision for name in "abc"]
    end = forget(parts)
    parts.eraser.delete([first, second])
    assert revisions(parts) == [third, end]
    assert [entry.revision for entry in parts.journal.read(first, limit=1)] == [third]


def test_a_number_is_not_used_twice_although_all_entries_before_are_deleted(parts: Parts) -> None:
    all_ = [append(parts.journal, name).revision for name in "abc"]
    head = forget(parts)
    parts.eraser.delete(all_)
    parts.eraser.sweep()
    assert append(parts.journal, "later").revision > head
    assert revisions(parts)[0] == head


def test_forgetting_beside_writers_loses_nothing_of_theirs(parts: Parts) -> None:
    old = [append(parts.journal, name).revision for name in range(20)]
    done = threading.Event()

    def erase() -> None:
        forget(parts)
        parts.eraser.delete(old)
        parts.eraser.sweep()
        done.set()

    erasing = threading.Thread(target=erase)
    erasing.start()
    outcomes = append_together(parts.journal, [[f"{t}-{n}" for n in range(25)] for t in range(4)])
    erasing.join()
    assert done.is_set()
    new = {
        revision
        for entry in read_all(parts.journal)
        if entry.kind == Kind.CALLBACK and (revision := entry.revision)
    }
    assert new == {outcome.revision for mine in outcomes for outcome in mine.values()}


def test_an_impossible_entry_is_refused(parts: Parts) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        parts.eraser.forget(new_entry(id=b"short"))

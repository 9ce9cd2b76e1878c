"""The journal's files: who may read them, what is refused, and how large they grow."""

import sqlite3
import stat
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from journal import sqlite_writer
from journal.errors import InUse, NotKept, NotWritable, Unavailable, Unreadable
from journal.sqlite import SqliteJournal
from tests.support.journals import PATIENCE, append, new_entry, read_all


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[SqliteJournal]:
    journal = SqliteJournal.open_writer(path)
    yield journal
    journal.close()


@pytest.fixture
def reader(journal: SqliteJournal, path: Path) -> Iterator[SqliteJournal]:
    reader = SqliteJournal.open_reader(path)
    yield reader
    reader.close()


def change(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(statement)
    connection.close()


def test_every_file_is_for_its_owner_only(journal: SqliteJournal, path: Path) -> None:
    append(journal)
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == [
        "journal.db",
        "journal.db-shm",
        "journal.db-wal",
        "journal.db.lock",
    ]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_sqlite3_command_line_shows_readable_entries(
    journal: SqliteJournal, path: Path
) -> None:
    append(journal, "a", body='{"Text": "你好"}'.encode())
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    row = connection.execute(
        "SELECT revision, sdk_app_id, received_at, request_id, CAST(body AS TEXT) FROM entries"
    ).fetchone()
    connection.close()
    assert row == (1, 1400000001, 1_700_000_000_000, "request-a", '{"Text": "你好"}')


def test_a_reopened_journal_is_the_same_one(path: Path) -> None:
    first = SqliteJournal.open_writer(path)
    append(first, "a")
    first.close()
    again = SqliteJournal.open_writer(path)
    assert again.id == first.id
    assert append(again, "a").duplicate
    assert append(again, "b").revision == 2
    again.close()


def test_after_a_clean_close_the_database_file_alone_is_whole(path: Path, tmp_path: Path) -> None:
    journal = SqliteJournal.open_writer(path)
    append(journal)
    journal.close()
    copy = tmp_path / "copy.db"
    copy.write_bytes(path.read_bytes())
    reader = SqliteJournal.open_reader(copy)
    assert reader.head() == 1
    reader.close()


def test_equal_ids_in_one_commit_become_one_entry(tmp_path: Path) -> None:
    writer = sqlite_writer.Writer(tmp_path / "journal.db")
    outcomes = writer.commit([new_entry(name) for name in "abacab"])
    writer.close()
    assert [outcome.revision for outcome in outcomes] == [1, 2, 1, 3, 1, 2]
    assert [outcome.duplicate for outcome in outcomes] == [False, False, True, False, True, True]


def test_a_commit_that_broke_half_way_leaves_no_trace(tmp_path: Path) -> None:
    writer = sqlite_writer.Writer(tmp_path / "journal.db")
    with pytest.raises(Unavailable):
        writer.commit([new_entry("a"), new_entry("b", sdk_app_id=2**70)])
    outcomes = writer.commit([new_entry("b"), new_entry("a")])
    writer.close()
    assert [(outcome.revision, outcome.duplicate) for outcome in outcomes] == [
        (1, False),
        (2, False),
    ]


def test_a_second_writer_in_the_same_process_is_refused(journal: SqliteJournal, path: Path) -> None:
    with pytest.raises(InUse, match="another process is writing"):
        SqliteJournal.open_writer(path)
    assert append(journal).revision == 1


def test_a_reader_may_not_append(reader: SqliteJournal) -> None:
    with pytest.raises(NotWritable):
        reader.append(new_entry(), timeout=1)


def test_a_reader_is_told_that_there_is_no_journal_yet(path: Path) -> None:
    with pytest.raises(Unavailable, match="there is no journal"):
        SqliteJournal.open_reader(path)
    path.parent.mkdir()
    path.touch()
    with pytest.raises(Unavailable, match="there is no journal"):
        SqliteJournal.open_reader(path)


def test_an_empty_file_left_by_a_crash_becomes_a_journal(path: Path) -> None:
    path.parent.mkdir()
    change(path, "PRAGMA journal_mode = WAL")
    journal = SqliteJournal.open_writer(path)
    assert append(journal).revision == 1
    journal.close()


@pytest.mark.parametrize("opening", [SqliteJournal.open_writer, SqliteJournal.open_reader])
class TestUnreadable:
    def test_a_file_of_something_else_is_refused_and_left_alone(
        self, path: Path, opening: object
    ) -> None:
        path.parent.mkdir()
        path.write_bytes(content := b"something else\n" * 1000)
        with pytest.raises(Unreadable, match="is not a journal"):
            opening(path)  # type: ignore[operator]
        assert path.read_bytes() == content

    def test_a_database_of_something_else_is_refused_and_left_alone(
        self, path: Path, opening: object
    ) -> None:
        path.parent.mkdir()
        change(path, "CREATE TABLE theirs (x)")
        content = path.read_bytes()
        with pytest.raises(Unreadable, match="is not a journal"):
            opening(path)  # type: ignore[operator]
        assert path.read_bytes() == content

    def test_a_journal_of_a_newer_version_is_refused(self, path: Path, opening: object) -> None:
        SqliteJournal.open_writer(path).close()
        change(path, "PRAGMA user_version = 2")
        with pytest.raises(Unreadable, match="has version 2, this program reads 1"):
            opening(path)  # type: ignore[operator]

    def test_after_a_refusal_the_lock_is_free(self, path: Path, opening: object) -> None:
        path.parent.mkdir()
        path.write_bytes(b"something else\n" * 1000)
        with pytest.raises(Unreadable):
            opening(path)  # type: ignore[operator]
        path.unlink()
        SqliteJournal.open_writer(path).close()


def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable):
        SqliteJournal.open_writer(tmp_path / "file" / "journal.db")


def test_entries_that_were_removed_are_reported_not_skipped(path: Path) -> None:
    journal = SqliteJournal.open_writer(path)
    for name in "abcd":
        append(journal, name)
    journal.close()
    change(path, "DELETE FROM entries WHERE revision < 3")
    reader = SqliteJournal.open_reader(path)
    assert reader.oldest() == 3
    with pytest.raises(NotKept) as error:
        reader.read(0, limit=10)
    assert error.value.oldest == 3
    assert [entry.revision for entry in reader.read(2, limit=10)] == [3, 4]
    reader.close()


def test_the_wal_does_not_grow_without_bound_while_readers_are_busy(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer, "CHECKPOINT_PAGES", 100)
    journal = SqliteJournal.open_writer(path)
    finished = threading.Event()

    def read() -> None:
        reader = SqliteJournal.open_reader(path)
        while not finished.is_set():
            read_all(reader, limit=10)
        reader.close()

    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in readers:
        thread.start()
    for name in range(250):
        append(journal, name, body=b"x" * 8000)
    finished.set()
    for thread in readers:
        thread.join(PATIENCE)
    assert path.with_name("journal.db-wal").stat().st_size < 4 * 100 * 4096
    assert journal.head() == 250
    journal.close()


def wal_pages(path: Path) -> int:
    """Pages in the WAL; what was left from before it was started anew has another salt."""
    content = path.with_name("journal.db-wal").read_bytes()
    frames = range(32, len(content), 24 + 4096)
    return sum(content[at + 8 : at + 16] == content[16:24] for at in frames)


def test_the_wal_is_started_anew_each_time_it_has_grown_and_no_sooner(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer, "CHECKPOINT_PAGES", 100)
    path.parent.mkdir()
    writer = sqlite_writer.Writer(path)
    sizes = []
    for name in range(150):
        writer.commit([new_entry(name, body=b"x" * 8000)])
        writer.checkpoint()
        sizes.append(wal_pages(path))
    writer.close()
    started_anew = [after < before for before, after in pairwise(sizes)]
    assert started_anew == [before >= 100 for before in sizes[:-1]]
    assert sum(started_anew) >= 3

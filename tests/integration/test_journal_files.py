"""The journal's files: their access rights, their formats, and their growth."""

import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import count, pairwise
from pathlib import Path
from random import random
from typing import Any

import apsw
import pytest
from structlog.testing import capture_logs

from journal.entry import Appended
from journal.errors import InUse, NotKept, Unavailable, Unreadable
from journal.sqlite import SqliteReader, SqliteWriter
from journal.sqlite_writer import Writer
from tests.support.journals import PATIENCE, append, new_entry, read_all
from tests.support.waiting import eventually

PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[SqliteWriter]:
    journal = SqliteWriter(path)
    yield journal
    journal.close()


def change(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(statement)
    connection.close()


def test_every_file_is_for_its_owner_only(journal, path):
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


def test_the_sqlite3_command_line_shows_readable_entries(journal, path):
    append(journal, "a", body='{"Text": "你好"}'.encode())
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    row = connection.execute(
        "SELECT revision, sdk_app_id, received_at, request_id, CAST(body AS TEXT) FROM entries"
    ).fetchone()
    connection.close()
    assert row == (1, 1400000001, 1_700_000_000_000, "request-a", '{"Text": "你好"}')


def test_a_reopened_journal_is_the_same_one(path):
    first = SqliteWriter(path)
    append(first, "a")
    first.close()
    again = SqliteWriter(path)
    assert again.id == first.id
    assert append(again, "a").duplicate
    assert append(again, "b").revision == 2
    again.close()


def test_after_a_clean_close_the_database_file_alone_is_whole(path, tmp_path):
    journal = SqliteWriter(path)
    append(journal)
    journal.close()
    copy = tmp_path / "copy.db"
    copy.write_bytes(path.read_bytes())
    reader = SqliteReader(copy)
    assert reader.head() == 1
    reader.close()


def test_equal_ids_in_one_commit_become_one_entry(tmp_path):
    writer = Writer(tmp_path / "journal.db")
    outcomes = writer.commit([new_entry(name) for name in "abacab"])
    writer.close()
    assert [outcome.revision for outcome in outcomes] == [1, 2, 1, 3, 1, 2]
    assert [outcome.duplicate for outcome in outcomes] == [False, False, True, False, True, True]


def test_a_commit_that_broke_half_way_leaves_no_trace(tmp_path):
    writer = Writer(tmp_path / "journal.db")
    with pytest.raises(Unavailable):
        writer.commit([new_entry("a"), new_entry("b", id=b"too short")])
    outcomes = writer.commit([new_entry("b"), new_entry("a")])
    writer.close()
    assert [(outcome.revision, outcome.duplicate) for outcome in outcomes] == [
        (1, False),
        (2, False),
    ]


def test_a_second_writer_in_the_same_process_is_refused(journal, path):
    with pytest.raises(InUse, match="another process is writing"):
        SqliteWriter(path)
    assert append(journal).revision == 1


def test_a_reader_is_told_that_there_is_no_journal_yet(path):
    with pytest.raises(Unavailable, match="there is no journal"):
        SqliteReader(path)
    path.parent.mkdir()
    path.touch()
    with pytest.raises(Unavailable, match="there is no journal"):
        SqliteReader(path)


def test_an_empty_file_left_by_a_crash_becomes_a_journal(path):
    path.parent.mkdir()
    change(path, "PRAGMA journal_mode = WAL")
    journal = SqliteWriter(path)
    assert append(journal).revision == 1
    journal.close()


@pytest.mark.parametrize("opening", [SqliteWriter, SqliteReader])
class TestUnreadable:
    def test_a_file_of_something_else_is_refused_and_left_alone(self, path, opening):
        path.parent.mkdir()
        path.write_bytes(content := b"something else\n" * 1000)
        with pytest.raises(Unreadable, match="is not a journal"):
            opening(path)  # type: ignore[operator]
        assert path.read_bytes() == content

    def test_a_database_of_something_else_is_refused_and_left_alone(self, path, opening):
        path.parent.mkdir()
        change(path, "CREATE TABLE theirs (x)")
        content = path.read_bytes()
        with pytest.raises(Unreadable, match="is not a journal"):
            opening(path)  # type: ignore[operator]
        assert path.read_bytes() == content

    def test_a_journal_of_a_newer_version_is_refused(self, path, opening):
        SqliteWriter(path).close()
        change(path, "PRAGMA user_version = 3")
        with pytest.raises(Unreadable, match=r"^\S+ has version 3, .* reads 2: upgrade it$"):
            opening(path)  # type: ignore[operator]

    def test_after_a_refusal_the_lock_is_free(self, path, opening):
        path.parent.mkdir()
        path.write_bytes(b"something else\n" * 1000)
        with pytest.raises(Unreadable):
            opening(path)  # type: ignore[operator]
        path.unlink()
        SqliteWriter(path).close()


def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable):
        SqliteWriter(tmp_path / "file" / "journal.db")


def test_a_beginning_that_was_removed_is_reported_not_skipped(path):
    journal = SqliteWriter(path)
    for name in "abcd":
        append(journal, name)
    journal.close()
    change(path, "UPDATE header SET oldest_revision = 3; DELETE FROM entries WHERE revision < 3")
    reader = SqliteReader(path)
    for after in (0, 1):
        with pytest.raises(NotKept) as error:
            reader.read(after, limit=10)
        assert error.value.oldest == 3
    assert [entry.revision for entry in reader.read(2, limit=10)] == [3, 4]
    reader.close()


def test_an_entry_that_was_removed_leaves_a_gap_and_its_number_stays_spent(path):
    journal = SqliteWriter(path)
    for name in "abcd":
        append(journal, name)
    journal.close()
    change(path, "DELETE FROM entries WHERE revision IN (1, 3)")
    journal = SqliteWriter(path)
    assert append(journal, "e").revision == 5
    assert [entry.revision for entry in read_all(journal)] == [2, 4, 5]
    assert [entry.revision for entry in journal.read(2, limit=1)] == [4]
    journal.close()


def test_a_kind_of_a_later_version_is_read_as_its_number(journal, path):
    append(journal)
    change(path, "UPDATE entries SET kind = 7")
    assert [entry.kind for entry in read_all(journal)] == [7]


def test_an_append_waits_on_the_event_that_it_is_given_and_on_no_other(journal):
    class Flag(threading.Event):
        waited: list[bool] = []  # noqa: RUF012

        def wait(self, timeout: float | None = None) -> bool:
            self.waited.append(super().wait(timeout))
            return self.waited[-1]

    journal.append(new_entry("first"), timeout=PATIENCE, event=Flag)
    journal.append(new_entry("first"), timeout=PATIENCE, event=Flag)
    assert Flag.waited == [True, True]


def test_a_repetition_is_recognised_however_late(journal):
    append(journal, "first")
    for name in range(200):
        append(journal, name)
    assert append(journal, "first") == Appended(revision=1, duplicate=True)


def test_a_damaged_entry_is_named_and_those_before_it_can_be_read(path):
    journal = SqliteWriter(path)
    for name in range(200):
        append(journal, name, body=f"{name:04}".encode() * 200)
    journal.close()
    content = path.read_bytes()
    page = content.index(b"0100" * 200) // 4096
    path.write_bytes(content[: page * 4096] + b"\xa5" * 4096 + content[(page + 1) * 4096 :])
    reader = SqliteReader(path)
    before = reader.read(0, limit=200)
    assert 90 < len(before) <= 100
    with pytest.raises(Unreadable, match=f"damaged: the entry after revision {len(before)}: "):
        reader.read(before[-1].revision, limit=200)
    reader.close()


def test_the_wal_is_started_anew_again_and_again_while_readers_are_busy(path):
    journal = SqliteWriter(path, checkpoint_pages=100)
    finished = threading.Event()

    def read() -> None:
        reader = SqliteReader(path)
        while not finished.is_set():
            read_all(reader, limit=10)
        reader.close()

    wal = path.with_name("journal.db-wal")
    salts: set[bytes] = set()  # the WAL has another one each time it is started anew
    sizes: list[int] = []

    def is_started_anew() -> bool:
        append(journal, len(sizes), body=b"x" * 8000)
        with wal.open("rb") as file:
            salts.add(file.read(24)[16:])
        sizes.append(wal.stat().st_size)
        return len(salts) > 3

    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in readers:
        thread.start()
    try:
        eventually(is_started_anew)
        assert journal.head() == len(sizes)
        assert max(sizes) < 40 * 100 * PAGE
    finally:
        finished.set()
        for thread in readers:
            thread.join(PATIENCE)
        journal.close()


def wal_pages(path: Path) -> int:
    """Count the pages in the WAL; those from before its last restart have another salt."""
    content = path.with_name("journal.db-wal").read_bytes()
    frames = range(32, len(content), 24 + 4096)
    return sum(content[at + 8 : at + 16] == content[16:24] for at in frames)


def test_the_wal_is_started_anew_each_time_it_has_grown_and_no_sooner(path):
    path.parent.mkdir()
    writer = Writer(path, checkpoint_pages=100)
    sizes = []
    for name in range(150):
        writer.commit([new_entry(name, body=b"x" * 8000)])
        writer.checkpoint()
        sizes.append(wal_pages(path))
    writer.close()
    started_anew = [after < before for before, after in pairwise(sizes)]
    assert started_anew == [before >= 100 for before in sizes[:-1]]
    assert sum(started_anew) >= 3


def test_a_reader_that_holds_on_delays_the_new_start_of_the_wal(path):
    path.parent.mkdir()
    writer = Writer(path, checkpoint_pages=10)

    def commit(name: object) -> int:
        writer.commit([new_entry(name, body=b"x" * 50_000)])
        writer.checkpoint()
        return wal_pages(path)

    commit("before")
    # By the library that the writer uses: locks of another copy in this process would not count.
    with closing(apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM entries").get == 1
        with capture_logs() as logs:
            assert commit("first") < commit("second")
    writer.close()
    assert {each["event"] for each in logs} == {"journal_checkpoint_delayed"}


@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_truncated_wal_costs_what_was_cut_off_and_nothing_else(kept, journal, path):
    for number in range(40):
        append(journal, number)
    wal = Path(f"{path}-wal")
    with wal.open("r+b") as file, capture_logs() as logs:
        file.truncate(int(wal.stat().st_size * kept))
        for number in range(40, 200):
            append(journal, number)
    assert [line["event"] for line in logs] == ["journal_file_truncated"]
    journal.close()
    with closing(SqliteReader(path)) as reader:
        whole = [entry.request_id for entry in read_all(reader)]
    assert whole[-160:] == [f"request-{number}" for number in range(40, 200)]
    assert whole[:-160] == [f"request-{number}" for number in range(len(whole) - 160)]


@pytest.mark.parametrize("look", range(48))
@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_file_that_is_deleted_just_before_any_look_at_the_files_costs_nothing(
    suffix, look, path, tmp_path, monkeypatch
):
    really, looks = os.stat, count()

    def look_at(name: Any, **options: Any) -> os.stat_result:
        if str(name).startswith(str(path)) and next(looks) == look:
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        return really(name, **options)

    path.parent.mkdir()
    monkeypatch.setattr(os, "stat", look_at)
    writer = Writer(path)
    for name in "abcd":
        writer.commit([new_entry(name)])
    monkeypatch.undo()
    assert next(looks) > look
    writer.commit([new_entry("e")])
    assert after_a_kill(path, tmp_path) == [f"request-{name}" for name in "abcde"]
    writer.close()


@pytest.mark.parametrize("suffixes", [("-wal",), ("-shm",), ("-wal", "-shm")])
def test_files_that_are_deleted_again_and_again_cost_nothing(suffixes, path, tmp_path):
    finished = threading.Event()

    def delete() -> None:
        while not finished.wait(random() / 300):
            for suffix in suffixes:
                Path(f"{path}{suffix}").unlink(missing_ok=True)

    path.parent.mkdir()
    writer = Writer(path, checkpoint_pages=20)
    thread = threading.Thread(target=delete)
    thread.start()
    try:
        for name in range(100):
            writer.commit([new_entry(name)])
            writer.checkpoint()
    finally:
        finished.set()
        thread.join()
    writer.commit([new_entry(100)])
    assert after_a_kill(path, tmp_path) == [f"request-{name}" for name in range(101)]
    writer.close()


@pytest.mark.parametrize("look", range(8))
def test_a_reader_notices_a_backup_that_comes_back_while_it_opens_the_file(
    look, path, tmp_path, monkeypatch
):
    with closing(SqliteWriter(path)) as journal:
        append(journal, "a")
    shutil.copy(path, tmp_path / "backup.db")
    with closing(SqliteWriter(path)) as journal:
        append(journal, "b")
    really, looks = os.stat, count()

    def look_at(name: Any, **options: Any) -> os.stat_result:
        if str(name).startswith(str(path)) and next(looks) == look:
            (tmp_path / "backup.db").rename(path)
        return really(name, **options)

    monkeypatch.setattr(os, "stat", look_at)
    with closing(SqliteReader(path)) as reader:
        assert next(looks) > look
        assert [entry.request_id for entry in read_all(reader)] == ["request-a"]


def after_a_kill(path: Path, tmp_path: Path) -> list[str]:
    """Return the entries in the files that are there, as if their writer had been killed."""
    left = tmp_path / "left"
    left.mkdir()
    for file in path.parent.glob("journal.db*"):
        shutil.copy(file, left)
    with closing(SqliteReader(left / "journal.db")) as reader:
        return [entry.request_id for entry in read_all(reader)]


def test_a_truncated_database_gets_back_what_the_wal_has(path):
    SqliteWriter(path).close()
    journal = SqliteWriter(path)
    for number in range(40):
        append(journal, number, body=bytes(4000))
    with path.open("r+b") as file:
        file.truncate(3 * PAGE)  # the last one has the header, which was not written again
    append(journal, 40)
    journal.close()
    with closing(SqliteReader(path)) as reader:
        assert len(read_all(reader)) == 41


def test_a_database_that_was_emptied_is_not_acknowledged_into(path):
    journal = SqliteWriter(path)
    append(journal, 1)
    journal.close()
    journal = SqliteWriter(path)
    with path.open("r+b") as file:
        file.truncate(0)
    with pytest.raises(Unavailable):
        append(journal, 2)
    journal.close()

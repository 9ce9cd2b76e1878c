"""Migration of a journal of an older version: in place, and whole after any failure."""

import hashlib
import itertools
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from structlog.testing import capture_logs

from journal.entry import Kind
from journal.errors import Unavailable, Unreadable
from journal.sqlite import SqliteReader, SqliteWriter
from tests.support.callbacks import NOON
from tests.support.faulty_disk import faulty_disk
from tests.support.journals import append, read_all
from tests.support.processes import run, start

VERSION_1 = Path(__file__).parents[1] / "fixtures" / "journal-version-1.db"

COLUMNS = (
    "revision",
    "id",
    "sdk_app_id",
    "received_at",
    "request_id",
    "client_ip",
    "platform",
    "body",
)

# Of the fixture, by the program that made it.
JOURNAL_ID = "04d6ff7433bf4e348ebd97845dae5666"
ENTRIES = 31
CONTENT = "6ed253f2952d6773e28b3cc07ac627a5eb020523406f38ca865efb2c1165f2e6"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copy(VERSION_1, tmp_path / "journal.db"))


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def schema_of(path: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return [
            row
            for table in ("header", "entries")
            for row in connection.execute(f"PRAGMA table_xinfo({table})")
        ]


def assert_whole(journal: SqliteReader) -> None:
    """Check that every entry of the fixture is there, under its number, as a callback."""
    entries = read_all(journal)[:ENTRIES]
    rows = [tuple(getattr(entry, column) for column in COLUMNS) for entry in entries]
    assert journal.id == JOURNAL_ID
    assert [entry.revision for entry in entries] == list(range(1, ENTRIES + 1))
    assert hashlib.sha256(repr(rows).encode()).hexdigest() == CONTENT
    assert {entry.kind for entry in entries} == {Kind.CALLBACK}


def test_it_is_migrated_in_place_and_says_so_in_one_line(path: Path) -> None:
    with capture_logs() as logs:
        journal = SqliteWriter(path)
    assert_whole(journal)
    journal.close()
    assert logs == [
        {
            "event": "journal_migrated",
            "log_level": "info",
            "journal": str(path),
            "from_version": 1,
            "to_version": 2,
        }
    ]
    assert version_of(path) == 2


def test_what_it_says_is_what_was_written(path: Path) -> None:
    journal = SqliteWriter(path)
    entries = read_all(journal)
    journal.close()
    assert (entries[0].request_id, entries[0].sdk_app_id) == ("request-0", 1600012345)
    assert entries[5].body == b'{"SessionId": "session-1", "Event": '
    assert "你好，我的订单在哪里？".encode() in entries[2].body
    assert "没有开始".encode() in entries[30].body
    assert entries[30].received_at == 1_725_540_204_247


def test_appending_goes_on_and_repetitions_of_before_are_recognised(path: Path) -> None:
    journal = SqliteWriter(path)
    again = read_all(journal)[2]
    assert append(journal, "new").revision == ENTRIES + 1
    assert append(journal, id=again.id).revision == 3
    assert append(journal, kind=Kind.FORGET).revision == ENTRIES + 2
    journal.close()
    reader = SqliteReader(path)
    assert_whole(reader)
    assert [entry.kind for entry in reader.read(ENTRIES, limit=9)] == [Kind.CALLBACK, Kind.FORGET]
    reader.close()


def test_the_second_start_changes_nothing_and_says_nothing(path: Path) -> None:
    SqliteWriter(path).close()
    content = path.read_bytes()
    with capture_logs() as logs:
        SqliteWriter(path).close()
    assert logs == []
    assert path.read_bytes() == content


def test_a_migrated_journal_has_the_columns_of_a_new_one(path: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.db"
    SqliteWriter(path).close()
    SqliteWriter(new).close()
    assert schema_of(path) == schema_of(new)


def test_a_reader_waits_for_the_writer_and_leaves_the_file_alone(path: Path) -> None:
    with pytest.raises(Unavailable, match="is of version 1; its writer migrates it"):
        SqliteReader(path)
    assert path.read_bytes() == VERSION_1.read_bytes()
    journal = SqliteWriter(path)
    reader = SqliteReader(path)
    assert_whole(reader)
    reader.close()
    journal.close()


def test_an_older_journal_that_is_put_in_its_place_is_migrated_too(
    path: Path, tmp_path: Path
) -> None:
    journal = SqliteWriter(path)
    append(journal, "lost with the journal that is replaced")
    shutil.copy(VERSION_1, tmp_path / "backup.db")
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"journal.db{suffix}").unlink()
    (tmp_path / "backup.db").rename(path)
    assert append(journal, "goes on").revision == ENTRIES + 1
    assert_whole(journal)
    journal.close()


def test_a_version_that_never_was_is_refused_and_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 0")
    content = path.read_bytes()
    with pytest.raises(Unreadable, match="has version 0, this program reads 2"):
        SqliteWriter(path)
    assert path.read_bytes() == content


def steps_of(migration: Callable[[], None], act: Callable[[int, str], None]) -> int:
    """Run a migration, with `act` before each write and sync; return how many there were."""
    steps = itertools.count()
    with faulty_disk() as disk:

        def fault(operation: str) -> None:
            if operation != "read":
                act(next(steps), operation)

        disk.fault = fault
        migration()
    return next(steps)


def test_what_a_kill_leaves_at_any_point_is_a_whole_journal_and_is_migrated_at_the_next_start(
    path: Path, tmp_path: Path
) -> None:
    copies = tmp_path / "copies"

    def take_copy(step: int, _operation: str) -> None:
        copy = copies / str(step)
        copy.mkdir(parents=True)
        files = [path, Path(f"{path}-wal")]
        # By another process: to open and close the file here would drop SQLite's locks.
        subprocess.run(["cp", *(str(file) for file in files if file.exists()), copy], check=True)

    steps = steps_of(lambda: SqliteWriter(path).close(), take_copy)
    versions = []
    for step in range(steps):
        copy = copies / str(step) / "journal.db"
        versions.append(version_of(copy))
        journal = SqliteWriter(copy)
        assert_whole(journal)
        assert append(journal, "new").revision == ENTRIES + 1
        journal.close()
        assert version_of(copy) == 2
    assert versions == sorted(versions)
    assert set(versions) == {1, 2}


def test_a_disk_that_fails_at_any_point_leaves_a_whole_journal(path: Path, tmp_path: Path) -> None:
    steps = steps_of(lambda: SqliteWriter(path).close(), lambda _step, _operation: None)
    failed = 0
    for broken in range(steps):
        copy = Path(shutil.copy(VERSION_1, tmp_path / f"journal-{broken}.db"))

        def fail(step: int, operation: str, broken: int = broken) -> None:
            if step == broken:
                raise apsw.IOError(f"the disk failed at {operation}")

        try:
            steps_of(lambda copy=copy: SqliteWriter(copy).close(), fail)
        except Unavailable:
            failed += 1
        journal = SqliteWriter(copy)
        assert_whole(journal)
        journal.close()
        assert version_of(copy) == 2
    assert failed > 3


def test_serve_migrates_it_and_serves_its_sessions(path: Path) -> None:
    with start("serve", data_dir=path.parent) as desk:
        arguments = ("sessions", "list", "--min-revision", str(ENTRIES), "--json")
        listed = run(*arguments, target=desk.target).stdout
        assert [name in listed for name in ("session-1", "session-2", "session-4")] == [
            True,
            True,
            False,
        ]
        assert desk.post({"SessionId": "new", "Event": "SessionBegin", "EventTime": NOON})[0] == 200
        arguments = ("sessions", "list", "--min-revision", str(ENTRIES + 1), "--json")
        assert '"new"' in run(*arguments, target=desk.target).stdout
    assert version_of(path) == 2

"""Deletion in a journal's file: the bytes are gone, and the writer beside it is not disturbed."""

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import apsw
import pytest
from msgspec.structs import astuple
from structlog.testing import capture_logs

from journal import sqlite_eraser
from journal.backup import write_new
from journal.entry import NewEntry, unnumbered
from journal.errors import Unavailable, Unreadable
from journal.forgetting import forget_entry
from journal.sqlite import SqliteReader, SqliteWriter
from journal.sqlite_eraser import SqliteEraser
from journal.sqlite_format import APPLICATION_ID, VERSION
from tests.support.callbacks import entry
from tests.support.faulty_disk import faulty_disk
from tests.support.files import files_with
from tests.support.journals import append, read_all

MARK = b"MARKED01"
APP = 1400000001


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[SqliteWriter]:
    with closing(SqliteWriter(path)) as journal:
        yield journal


def fill(journal: SqliteWriter, count: int, chance: random.Random) -> list[int]:
    """Append entries of many lengths; return the revisions of those with the mark."""
    marked = []
    for number in range(count):
        mark = MARK if number % 3 == 0 else b"kept0000"
        body = mark * chance.choice([1, 50, 300, 600, 5_000]) + str(number).encode()
        revision = append(journal, number, body=body).revision
        if mark == MARK:
            marked.append(revision)
    return marked


@pytest.mark.parametrize("seed", range(12))
def test_no_page_keeps_a_copy_of_an_entry_that_sqlite_has_moved(seed: int, path: Path) -> None:
    """SQLite leaves one in some of these files, which the writer could write once more."""
    chance = random.Random(seed)
    count, long = chance.randint(120, 720), chance.randint(20, 200)
    is_marked = [bool(number % 2) for number in range(count)] + [True] * long
    bodies = [
        (MARK if marked else b"kept0000") * chance.randint(54, 66) + b"%d" % number
        for number, marked in enumerate(is_marked)
    ]
    write_new(path, (entry(number, body) for number, body in enumerate(bodies, 1)))
    with closing(SqliteWriter(path)) as journal:
        eraser = SqliteEraser(path)
        eraser.forget(forget_entry(APP, 1, session_ids=["a"]))
        eraser.delete([number for number in range(len(bodies), 0, -1) if is_marked[number - 1]])
        eraser.sweep()
        assert files_with(MARK, path.parent) == []
        append(journal, "later")
        assert len(read_all(journal)) == is_marked.count(False) + 2
    assert files_with(MARK, path.parent) == []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("seed", range(3))
def test_no_file_has_the_bytes_of_a_deleted_entry(
    seed: int, journal: SqliteWriter, path: Path
) -> None:
    marked = fill(journal, 600, random.Random(seed))
    eraser = SqliteEraser(path)
    eraser.forget(forget_entry(APP, 1, session_ids=["a"]))
    size = path.stat().st_size
    with capture_logs() as logs:
        eraser.delete(marked)
        append(journal, "between")
        eraser.sweep()
        append(journal, "after")
    assert files_with(MARK, path.parent) == []
    assert "journal.db" in files_with(b"kept0000", path.parent)
    assert path.stat().st_size < 0.8 * size
    assert len(read_all(journal)) == 400 + 3
    assert logs == []
    journal.close()
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_file_that_cannot_become_smaller_loses_the_bytes_all_the_same(path: Path) -> None:
    with closing(SqliteWriter(path)) as journal:
        marked = fill(journal, 90, random.Random(1))
    with closing(apsw.Connection(str(path))) as older:  # as files of earlier versions are
        older.pragma("journal_mode", "delete")
        older.pragma("auto_vacuum", "none")
        older.pragma("secure_delete", "on")
        older.execute("VACUUM")
    with closing(SqliteWriter(path)) as journal:
        append(journal, "last")
        size = path.stat().st_size
        eraser = SqliteEraser(path)
        eraser.delete(marked)
        eraser.sweep()
        assert files_with(MARK, path.parent) == []
        assert path.stat().st_size >= size


def test_the_newest_entry_is_not_deleted(journal: SqliteWriter, path: Path) -> None:
    revisions = [append(journal, name).revision for name in "abc"]
    SqliteEraser(path).delete(revisions)
    assert [entry.revision for entry in read_all(journal)] == revisions[-1:]


def test_a_reader_in_the_way_delays_the_sweep(
    journal: SqliteWriter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_eraser, "ATTEMPTS", 2)
    marked = fill(journal, 30, random.Random(1))
    eraser = SqliteEraser(path)
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM entries").get == 30
        eraser.delete(marked)
        with pytest.raises(Unavailable, match="a reader keeps deleted entries"):
            eraser.sweep()
        append(journal, "meanwhile")
    eraser.sweep()
    assert files_with(MARK, path.parent) == []


def test_a_journal_that_is_not_there_or_another_one_is_not_touched(path: Path) -> None:
    with pytest.raises(Unavailable, match="there is no journal"):
        SqliteEraser(path)
    SqliteWriter(path).close()
    eraser = SqliteEraser(path)
    os.replace(path, path.with_name("other.db"))
    with pytest.raises(Unavailable, match="there is no journal"):
        eraser.delete([1])
    SqliteWriter(path).close()
    with pytest.raises(Unreadable, match="was replaced by another journal"):
        eraser.delete([1])


def test_an_entry_is_appended_while_another_connection_moves_the_wal(
    journal: SqliteWriter, path: Path
) -> None:
    eraser, revisions = SqliteEraser(path), []
    append(journal)
    with faulty_disk() as disk, closing(apsw.Connection(str(path))) as other:
        other.execute("SELECT 1 FROM sqlite_schema")

        def forget_meanwhile(operation: str) -> None:
            if operation == "sync":
                disk.heal()
                revisions.append(eraser.forget(forget_entry(APP, 1, session_ids=["a"])))

        disk.fault = forget_meanwhile
        other.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    assert revisions == [2]
    assert len(read_all(journal)) == 2


def test_a_reader_goes_on_while_entries_are_deleted(journal: SqliteWriter, path: Path) -> None:
    all_ = [append(journal, number).revision for number in range(100)]
    with closing(SqliteReader(path)) as reader:
        first = reader.read(0, limit=10)
        SqliteEraser(path).delete(all_[5:90])
        rest = reader.read(first[-1].revision, limit=100)
    assert [entry.revision for entry in rest] == all_[90:]


SEEDS_THAT_LEAVE_SOMETHING = 6, 16, 17
"""Seeds of deletions after which `secure_delete` alone leaves a part of an entry."""


@pytest.mark.parametrize("seed", SEEDS_THAT_LEAVE_SOMETHING)
def test_nothing_stays_beside_entries_that_moved(
    seed: int, journal: SqliteWriter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_eraser, "REST", 0.0)
    chance = random.Random(seed)
    marked = []
    for number in range(400):
        mark = MARK if chance.random() < 0.6 else b"kept0000"
        body = mark * chance.choice([1, 10, 30, 50, 150, 300]) + str(number).encode()
        revision = append(journal, number, body=body).revision
        if mark == MARK:
            marked.append(revision)
    append(journal, "last")
    chance.shuffle(marked)
    eraser = SqliteEraser(path)
    for start in range(0, len(marked), 7):
        eraser.delete(marked[start : start + 7])
    with closing(apsw.Connection(str(path))) as other:
        other.execute("SELECT 1 FROM sqlite_schema")  # a new connection has no WAL before
        other.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        assert files_with(MARK, path.parent) == [path.name], "this seed leaves nothing any more"
        eraser.sweep()
        append(journal, "after")
        assert files_with(MARK, path.parent) == []
        assert other.pragma("integrity_check") == "ok"


@pytest.mark.parametrize("texts", [10, 50, 100])
def test_a_journal_from_a_version_that_could_not_forget_loses_its_first_entries(
    texts: int, path: Path
) -> None:
    """Its first page, which had them, became an inner page of the table without being cleared."""
    columns = ", ".join(NewEntry.__struct_fields__)
    with closing(apsw.Connection(str(path))) as older:
        older.pragma("journal_mode", "wal")
        older.pragma("auto_vacuum", "none")
        schema = files("journal").joinpath("schema.sql").read_text()
        older.execute(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}")
        older.execute(schema)
        older.execute("INSERT INTO header (only, journal_id) VALUES (1, ?)", ("0" * 32,))
        for number in range(300):
            body = (MARK if number < 20 else b"kept0000") * texts + str(number).encode()
            row = astuple(unnumbered(entry(number, body)))
            marks = ", ".join("?" * len(row))
            older.execute(f"INSERT INTO entries ({columns}) VALUES ({marks})", row)
    with closing(SqliteWriter(path)) as journal:
        eraser = SqliteEraser(path)
        eraser.delete(list(range(20, 0, -1)))
        append(journal, "later")
        eraser.sweep()
        assert files_with(MARK, path.parent) == []
        assert len(read_all(journal)) == 281


def test_the_wal_stays_small_while_entries_are_deleted_beside_a_writer_at_rest(
    journal: SqliteWriter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_eraser, "WAL_PAGES", 20)
    monkeypatch.setattr(sqlite_eraser, "ROWS", 1)
    monkeypatch.setattr(sqlite_eraser, "REST", 0.0)
    revisions = [append(journal, number).revision for number in range(200)]
    eraser = SqliteEraser(path)
    eraser.sweep()
    eraser.delete(revisions[::-1])
    assert Path(f"{path}-wal").stat().st_size < 40 * 4_200


ERASE = """
import json, random, sys
from pathlib import Path
from journal import sqlite_eraser

sqlite_eraser.REST = 0.0
revisions = json.loads(sys.argv[2])
eraser = sqlite_eraser.SqliteEraser(Path(sys.argv[1]))
for start in range(0, len(revisions), 7):
    eraser.delete(revisions[start : start + 7])
    eraser.sweep()
"""


@pytest.mark.tools
def test_entries_that_are_appended_meanwhile_survive_erasers_that_are_killed(
    journal: SqliteWriter, path: Path
) -> None:
    chance = random.Random(6)
    kept: list[tuple[int, bytes]] = []
    gone: list[tuple[int, bytes]] = []
    for round_ in range(12):
        for number in range(200):
            is_kept = number % 3 == 0
            mark = b"kept0000" if is_kept else MARK
            body = mark * chance.choice([1, 10, 30, 50, 150, 300]) + str(number).encode()
            revision = append(journal, f"{round_} {number}", body=body).revision
            (kept if is_kept else gone).append((revision, body))
        chance.shuffle(gone)
        listed = json.dumps([revision for revision, _ in gone])
        eraser = subprocess.Popen([sys.executable, "-c", ERASE, path, listed])
        until = time.monotonic() + chance.uniform(0.3, 1.2)  # any time is as good
        while time.monotonic() < until:
            body = b"kept0000" * chance.choice([1, 30, 300])
            kept.append((append(journal, f"beside {len(kept)}", body=body).revision, body))
        eraser.kill()
        eraser.wait()
        with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as reader:
            assert reader.pragma("integrity_check") == "ok"
    last = SqliteEraser(path)
    last.delete([revision for revision, _ in gone])
    last.sweep()
    assert files_with(MARK, path.parent) == []
    assert [(each.revision, each.body) for each in read_all(journal)] == kept

"""The bytes between the cells of a database's pages."""

import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from service.view import store
from storage.gaps import (
    FIRST,
    HEADERS,
    clear_beside_writers,
    clear_gaps,
    gaps_in,
    headers,
    map_page,
    open_pages,
)
from tests.support.faulty_disk import faulty_disk

MARK = b"MARKED"
ROWS = 300


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "view.db"


@pytest.fixture
def db(path: Path) -> Iterator[apsw.Connection]:
    with closing(store.open_writer(path)) as connection:
        connection.execute("CREATE TABLE texts (id INTEGER PRIMARY KEY, mark TEXT, body BLOB)")
        yield connection


def leave_marks(db: apsw.Connection, seed: int) -> None:
    """Write, change and delete rows, so that SQLite moves them between pages."""
    chance = random.Random(seed)
    with db:
        for number in range(ROWS):
            mark = f"{MARK.decode() if number % 3 == 0 else 'kept'} {number}"
            row = number, mark, bytes(chance.randint(10, 900))
            db.execute("INSERT INTO texts VALUES (?, ?, ?)", row)
    for _ in range(3_000):
        row = bytes(chance.randint(10, 3_000)), chance.randrange(ROWS)
        db.execute("UPDATE texts SET body = ? WHERE id = ?", row)
    with db:
        db.execute("DELETE FROM texts WHERE id % 3 = 0")
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def test_what_was_deleted_is_nowhere_in_the_file_and_the_rest_is_whole(
    db: apsw.Connection, path: Path
) -> None:
    left = 0
    for seed in range(4):
        leave_marks(db, seed)
        left += path.read_bytes().count(MARK)
        before = db.execute("SELECT * FROM texts").fetchall()
        assert clear_gaps(str(path), store.PAGE) == 0
        db.pragma("shrink_memory")
        assert MARK not in path.read_bytes()
        assert db.pragma("integrity_check") == "ok"
        assert db.execute("SELECT * FROM texts").fetchall() == before
        db.execute("DELETE FROM texts")
    assert left, "SQLite has left nothing: this module may be of no use any more"


def test_pages_are_cleared_part_by_part(db: apsw.Connection, path: Path) -> None:
    leave_marks(db, 0)
    assert MARK in path.read_bytes()
    parts, first = 0, FIRST
    while first:
        first = clear_gaps(str(path), store.PAGE, first, seconds=0)
        parts += 1
    assert parts > 1
    assert MARK not in path.read_bytes()


def test_a_reader_beside_it_sees_what_it_saw(db: apsw.Connection, path: Path) -> None:
    leave_marks(db, 1)
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        rows = reader.execute("SELECT * FROM texts")
        first = next(rows)
        clear_gaps(str(path), store.PAGE)
        assert len([first, *rows]) == ROWS * 2 // 3
        assert reader.execute("PRAGMA quick_check").fetchone() == ("ok",)


def test_the_locks_of_the_process_stay(db: apsw.Connection, path: Path) -> None:
    """Closing a file drops a process's locks on it, unless SQLite is asked to close it."""
    assert db.execute("SELECT count(*) FROM texts").get == 0
    clear_gaps(str(path), store.PAGE)
    alone = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], timeout=0); "
        "db.execute('PRAGMA journal_mode = delete')"
    )
    done = subprocess.run(
        [sys.executable, "-c", alone, path], capture_output=True, text=True, check=False
    )
    assert "database is locked" in done.stderr


@pytest.fixture
def beside(db: apsw.Connection, path: Path) -> Iterator[list[apsw.Connection]]:
    """Three more connections to a file with marks in gaps, and an empty WAL."""
    leave_marks(db, 0)
    assert MARK in path.read_bytes()
    connections = [apsw.Connection(str(path)) for _ in range(3)]
    for connection in connections:
        assert connection.execute("SELECT count(*) FROM texts").get == ROWS * 2 // 3
        connection.wal_autocheckpoint(0)
    yield connections
    for connection in connections:
        connection.close()


def clear_all(path: Path, locking: apsw.Connection, moving: apsw.Connection) -> bool:
    with open_pages(str(path), store.PAGE) as pages:
        return all(
            clear_beside_writers(pages, pages.left_in(first), locking, moving)
            for first in pages.pieces()
        )


def test_a_writer_beside_it_does_not_write_old_bytes_back(
    path: Path, beside: list[apsw.Connection]
) -> None:
    writer, locking, moving = beside
    assert writer.execute("SELECT sum(length(body)) FROM texts").get  # it has all pages in memory
    assert clear_all(path, locking, moving)
    writer.execute("UPDATE texts SET mark = replace(mark, 'kept', 'left')")
    writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    assert MARK not in path.read_bytes()
    assert writer.pragma("integrity_check") == "ok"


def test_no_page_is_cleared_while_another_connection_writes(
    path: Path, beside: list[apsw.Connection]
) -> None:
    writer, locking, moving = beside
    before = path.read_bytes()
    with writer:
        writer.execute("DELETE FROM texts WHERE id = 1")
        with pytest.raises(apsw.BusyError):
            clear_all(path, locking, moving)
        assert path.read_bytes() == before


def test_no_page_is_cleared_while_a_reader_keeps_newer_ones_in_the_wal(
    path: Path, beside: list[apsw.Connection]
) -> None:
    reader, locking, moving = beside
    with reader:
        assert reader.execute("SELECT count(*) FROM texts").get
        locking.execute("UPDATE texts SET mark = 'new'")
        before = path.read_bytes()
        assert not clear_all(path, locking, moving)
        assert path.read_bytes() == before
    assert clear_all(path, locking, moving)
    assert MARK not in path.read_bytes()


def test_no_page_is_cleared_while_another_connection_moves_the_wal(
    path: Path, beside: list[apsw.Connection]
) -> None:
    _, locking, moving = beside
    outcomes = []

    def clear_meanwhile(operation: str) -> None:
        if operation == "sync":
            outcomes.append(clear_all(path, locking, moving))

    with faulty_disk() as disk, closing(apsw.Connection(str(path))) as other:
        other.execute("UPDATE texts SET mark = 'new'")
        disk.fault = clear_meanwhile
        other.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    assert set(outcomes) == {False}
    assert clear_all(path, locking, moving)
    assert MARK not in path.read_bytes()


GAP = b"x"


@pytest.mark.parametrize(
    "page",
    [
        bytes(16) + GAP * 48,  # of an overflow
        bytes([13, 0, 0, 0, 30, 0, 2]) + GAP * 57,  # cells in its header
        bytes([13, 0, 0, 255, 255, 0, 60]) + GAP * 57,  # pointers beyond the page
        bytes([13, 0, 0, 0, 1, 0, 65]) + GAP * 57,  # cells beyond the page
        bytes([13, 0, 0, 0, 1, 0, 20]) + bytes(13) + GAP * 44,  # a clear gap
        bytes([13, 0, 0, 0, 1, 0, 20, 0, 0, 0, 31, 255, 15, 99]) + bytes(6) + GAP * 44,  # pointers
    ],
)
def test_a_page_that_is_no_b_tree_or_has_no_text_in_its_gap_needs_no_clearing(page: bytes) -> None:
    assert list(gaps_in(page, 64, HEADERS)) == []


def test_the_gap_is_between_pointers_and_cells() -> None:
    leaf = bytes([13, 0, 0, 0, 2, 0, 50]) + GAP * 57
    interior = bytes([5, 0, 0, 0, 2, 0, 50]) + GAP * 57
    assert list(gaps_in(leaf + interior, 64, HEADERS)) == [(8 + 4, 50), (64 + 12 + 4, 64 + 50)]


def test_a_large_file_has_pages_of_other_kinds_that_look_like_b_trees() -> None:
    """Page 33,554,432 is the first whose number begins with the byte 2."""
    assert headers((2 << 24) - 1) == HEADERS
    assert set(headers(2 << 24)) == {5, 10, 13}
    assert set(headers(13 << 24)) == set()


def test_a_file_of_so_many_pages_is_cleared_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "large.db"
    leaf = bytes([13, 0, 0, 0, 2, 0, 200]) + GAP * (512 - 7)
    overflow = bytes([2, 0, 0, 0, 2, 0, 200]) + GAP * (512 - 7)
    with path.open("wb") as file:
        file.write(bytes(512) + leaf + overflow)
        file.truncate(512 * (2 << 24))  # sparse
    assert clear_gaps(str(path), 512, seconds=0) > FIRST
    with path.open("rb") as file:
        file.seek(512)
        assert file.read(512)[12:200] == bytes(188)
        assert file.read(512) == overflow


def test_pages_of_the_pointer_map_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "with-a-map.db"
    with closing(apsw.Connection(str(path))) as db:
        db.pragma("page_size", 2048)
        db.pragma("auto_vacuum", "incremental")
        db.execute("CREATE TABLE texts (body TEXT)")
        with db:
            db.executemany("INSERT INTO texts VALUES (?)", ((f"{n} " * 300,) for n in range(2_000)))
        assert clear_gaps(str(path), 2048) == 0
    with closing(apsw.Connection(str(path))) as db:
        assert db.pragma("integrity_check") == "ok"


def test_pages_of_the_pointer_map_are_those_of_sqlites_file_format() -> None:
    """Of a page of 4,096 bytes there are 819 entries; the page with the locks has none."""
    for page in (2, 822, 1642):
        assert map_page(page, 4096) == page
        assert map_page(page + 1, 4096) == map_page(page + 819, 4096) == page
    locks = (1 << 30) // 512 + 1
    around = [page for page in range(locks - 103, locks + 104) if map_page(page, 512) == page]
    assert locks not in around

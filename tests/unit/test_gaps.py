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
from storage.gaps import clear_gaps, gap_of, map_page

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
        assert clear_gaps(str(path), store.PAGE, 1, 1 << 24) == 0
        db.pragma("shrink_memory")
        assert MARK not in path.read_bytes()
        assert db.pragma("integrity_check") == "ok"
        assert db.execute("SELECT * FROM texts").fetchall() == before
        db.execute("DELETE FROM texts")
    assert left, "SQLite has left nothing: this module may be of no use any more"


def test_pages_are_cleared_part_by_part(db: apsw.Connection, path: Path) -> None:
    leave_marks(db, 0)
    pages = path.stat().st_size // store.PAGE
    first, looked = 1, 0
    while first:
        first = clear_gaps(str(path), store.PAGE, first, 10)
        looked += 10
    assert pages <= looked < pages + 10
    assert MARK not in path.read_bytes()


def test_a_reader_beside_it_sees_what_it_saw(db: apsw.Connection, path: Path) -> None:
    leave_marks(db, 1)
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        rows = reader.execute("SELECT * FROM texts")
        first = next(rows)
        clear_gaps(str(path), store.PAGE, 1, 1 << 24)
        assert len([first, *rows]) == ROWS * 2 // 3
        assert reader.execute("PRAGMA quick_check").fetchone() == ("ok",)


def test_the_locks_of_the_process_stay(db: apsw.Connection, path: Path) -> None:
    """Closing a file drops a process's locks on it, unless SQLite is asked to close it."""
    assert db.execute("SELECT count(*) FROM texts").get == 0
    clear_gaps(str(path), store.PAGE, 1, 10)
    alone = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], timeout=0); "
        "db.execute('PRAGMA journal_mode = delete')"
    )
    done = subprocess.run(
        [sys.executable, "-c", alone, path], capture_output=True, text=True, check=False
    )
    assert "database is locked" in done.stderr


@pytest.mark.parametrize(
    "page",
    [
        bytes(64),  # of an overflow
        bytes([13, 0, 0, 0, 3, 0, 2]) + bytes(57),  # cells in its header
        bytes([13, 0, 0, 255, 255, 0, 60]) + bytes(57),  # pointers beyond the page
        bytes([13, 0, 0, 0, 1, 0, 65]) + bytes(57),  # cells beyond the page
    ],
)
def test_a_page_that_is_no_b_tree_has_no_gap(page: bytes) -> None:
    assert gap_of(page) == (0, 0)


def test_the_gap_is_between_pointers_and_cells() -> None:
    leaf = bytes([13, 0, 0, 0, 2, 0, 50]) + bytes(57)
    interior = bytes([5, 0, 0, 0, 2, 0, 50]) + bytes(57)
    assert gap_of(leaf) == (8 + 4, 50)
    assert gap_of(interior) == (12 + 4, 50)


def test_pages_of_the_pointer_map_are_those_of_sqlites_file_format() -> None:
    """Of a page of 4,096 bytes there are 819 entries; the page with the locks has none."""
    for page in (2, 822, 1642):
        assert map_page(page, 4096) == page
        assert map_page(page + 1, 4096) == map_page(page + 819, 4096) == page
    locks = (1 << 30) // 512 + 1
    around = [page for page in range(locks - 103, locks + 104) if map_page(page, 512) == page]
    assert locks not in around

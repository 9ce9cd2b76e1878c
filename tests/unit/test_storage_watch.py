"""Who waits for a commit of another process is asleep until there may be one."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage import watch
from storage.watch import WalWatch

PATIENCE = 20.0


@pytest.fixture
def wal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A WAL; nobody looks at it by the clock, but after minutes."""
    monkeypatch.setattr(watch, "SLOW_SYNC", 0.0)
    monkeypatch.setattr(watch, "QUIET", 2 * PATIENCE)
    wal = tmp_path / "journal.db-wal"
    wal.write_bytes(b"")
    return wal


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Somebody writes to the file, again and again."""
    over = threading.Event()

    def write() -> None:
        with path.open("ab", buffering=0) as file:
            while not over.wait(0.001):
                file.write(b"x")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def wakes(watch: WalWatch) -> bool:
    """Whether a sleeper wakes before its time."""
    began = time.monotonic()
    watch.sleep(PATIENCE)
    return time.monotonic() < began + PATIENCE


def await_quiet(watch: WalWatch) -> None:
    """Sleep until there is nothing left to be told of what was."""
    for _ in range(100):
        began = time.monotonic()
        watch.sleep(0.05)
        if time.monotonic() >= began + 0.05:
            return
    raise AssertionError("it is never quiet")


def test_a_write_wakes_the_sleeper(wal: Path) -> None:
    with written(wal):
        assert wakes(WalWatch(wal.with_name("journal.db")))


def test_a_write_to_another_file_in_its_place_does_so_too(wal: Path) -> None:
    watch = WalWatch(wal.with_name("journal.db"))
    with written(wal):
        assert wakes(watch)
    wal.unlink()
    wal.write_bytes(b"")
    await_quiet(watch)
    with written(wal):
        assert wakes(watch)


def test_a_sleep_has_an_end_although_nothing_is_there_to_be_watched(tmp_path: Path) -> None:
    WalWatch(tmp_path / "journal.db").sleep(0.01)


def test_where_the_kernel_does_not_tell_one_looks_by_the_clock(
    wal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError("too many instances")

    monkeypatch.setattr(watch, "INotify", refuse)
    assert wakes(WalWatch(wal.with_name("journal.db")))

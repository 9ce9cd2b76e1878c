"""A process that waits for a commit of another one sleeps until there may be one."""

import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from storage.watch import WalWatch

PATIENCE = 20.0


@pytest.fixture
def wal(tmp_path: Path) -> Path:
    wal = tmp_path / "journal.db-wal"
    wal.write_bytes(b"")
    return wal


def watch_of(wal: Path) -> WalWatch:
    """Watch a WAL; the clock alone ends a sleep after minutes only."""
    return WalWatch(wal.with_name("journal.db"), quiet=2 * PATIENCE, slow_sync=0.0)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Write to the file again and again, in a thread."""
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
    """Return True if a sleep ends before its time."""
    began = time.monotonic()
    watch.sleep(PATIENCE)
    return time.monotonic() < began + PATIENCE


def await_quiet(watch: WalWatch) -> None:
    """Sleep until no write is left to be reported."""
    for _ in range(100):
        began = time.monotonic()
        watch.sleep(0.05)
        if time.monotonic() >= began + 0.05:
            return
    raise AssertionError("it is never quiet")


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open no more files."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_write_ends_the_sleep(wal: Path) -> None:
    with closing(watch_of(wal)) as watch, written(wal):
        assert wakes(watch)


def test_a_write_to_another_file_in_its_place_does_so_too(wal: Path) -> None:
    with closing(watch_of(wal)) as watch:
        with written(wal):
            assert wakes(watch)
        wal.unlink()
        wal.write_bytes(b"")
        await_quiet(watch)
        with written(wal):
            assert wakes(watch)


def test_a_sleep_has_an_end_although_there_is_no_file_to_watch(tmp_path: Path) -> None:
    with closing(WalWatch(tmp_path / "journal.db")) as watch:
        watch.sleep(0.01)


def test_without_inotify_the_clock_ends_a_sleep_early_and_the_log_says_so(wal: Path) -> None:
    watch = watch_of(wal)
    with capture_logs() as logs, no_descriptors():
        assert wakes(watch)
    assert [each["event"] for each in logs] == ["inotify_not_available"]

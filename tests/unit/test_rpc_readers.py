"""Reads in threads: as many at once as there are threads, on those that are warm."""

import asyncio
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from service.view import store
from service.view.reader import Reader
from service.view.readers import Pool, Readers

PATIENCE = 10.0

THREADS = 3


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "view.db"
    store.open_writer(path).close()
    return path


def name(_: Reader) -> str:
    return threading.current_thread().name


def hold(_: Reader, entered: threading.Semaphore, let_go: threading.Event) -> str:
    entered.release()
    let_go.wait(PATIENCE)
    return threading.current_thread().name


async def entries(entered: threading.Semaphore, count: int) -> None:
    """Wait until so many reads have begun."""
    for _ in range(count):
        assert await asyncio.to_thread(entered.acquire, timeout=PATIENCE)


async def test_one_read_after_the_other_stays_on_one_thread(path: Path):
    opened = Pool(path, THREADS)
    assert len({await opened.run(name) for _ in range(20)}) == 1
    opened.close()


async def test_reads_at_once_have_a_thread_each_and_one_too_many_waits(path: Path):
    opened, entered, let_go = Pool(path, THREADS), threading.Semaphore(0), threading.Event()
    reads = [opened.start(hold, entered, let_go) for _ in range(THREADS + 1)]
    await entries(entered, THREADS)
    assert not entered.acquire(blocking=False)
    let_go.set()
    assert len(set(await asyncio.gather(*reads))) == THREADS
    opened.close()


async def test_a_thread_whose_read_was_given_up_is_not_used_before_that_has_ended(path: Path):
    opened, entered, let_go = Pool(path, THREADS), threading.Semaphore(0), threading.Event()
    given_up = opened.start(hold, entered, let_go)
    await entries(entered, 1)
    given_up.cancel()
    with suppress(asyncio.CancelledError):
        await given_up
    for _ in range(10):
        await asyncio.wait_for(opened.run(name), PATIENCE / 2)
    let_go.set()
    opened.close()


async def test_a_read_that_fails_says_so_and_gives_its_thread_back(path: Path):
    opened = Pool(path, THREADS)
    for _ in range(2 * THREADS):
        with pytest.raises(ZeroDivisionError):
            await opened.run(lambda _: 1 // 0)
    opened.close()


async def test_streams_that_catch_up_do_not_keep_questions_waiting(path: Path):
    opened, entered, let_go = Readers(path), threading.Semaphore(0), threading.Event()
    reads = [opened.catch_ups.start(hold, entered, let_go) for _ in range(20)]
    await entries(entered, 1)
    await asyncio.wait_for(opened.questions.run(name), PATIENCE / 2)
    let_go.set()
    await asyncio.gather(*reads)
    opened.close()

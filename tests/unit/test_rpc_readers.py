"""Reads in threads: as many at once as there are threads, on those that are warm, in turn."""

import asyncio
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from service.view import store
from service.view.reader import Reader
from service.view.readers import Pool, Readers
from tests.support.waiting import PATIENCE

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
    assert len({await opened.run("a", name) for _ in range(20)}) == 1
    opened.close()


async def test_reads_at_once_have_a_thread_each_and_one_too_many_waits(path: Path):
    opened, entered, let_go = Pool(path, THREADS), threading.Semaphore(0), threading.Event()
    reads = [opened.start(caller, hold, entered, let_go) for caller in "abcd"]
    await entries(entered, THREADS)
    assert not entered.acquire(blocking=False)
    let_go.set()
    assert len(set(await asyncio.gather(*reads))) == THREADS
    opened.close()


async def test_a_thread_whose_read_was_given_up_is_not_used_before_that_has_ended(path: Path):
    opened, entered, let_go = Pool(path, THREADS), threading.Semaphore(0), threading.Event()
    given_up = opened.start("a", hold, entered, let_go)
    await entries(entered, 1)
    given_up.cancel()
    with suppress(asyncio.CancelledError):
        await given_up
    for _ in range(10):
        await asyncio.wait_for(opened.run("a", name), PATIENCE / 2)
    let_go.set()
    opened.close()


async def test_a_read_that_fails_says_so_and_gives_its_thread_back(path: Path):
    opened = Pool(path, THREADS)
    for _ in range(2 * THREADS):
        with pytest.raises(ZeroDivisionError):
            await opened.run("a", lambda _: 1 // 0)
    opened.close()


async def test_streams_that_catch_up_do_not_keep_questions_waiting(path: Path):
    opened, entered, let_go = Readers(path), threading.Semaphore(0), threading.Event()
    reads = [opened.catch_ups.start("a", hold, entered, let_go) for _ in range(20)]
    await entries(entered, 1)
    await asyncio.wait_for(opened.questions.run("b", name), PATIENCE / 2)
    let_go.set()
    await asyncio.gather(*reads)
    opened.close()


async def test_one_caller_never_has_all_threads(path: Path):
    opened, entered, let_go = Pool(path, THREADS), threading.Semaphore(0), threading.Event()
    greedy = [opened.start("greedy", hold, entered, let_go) for _ in range(100)]
    await entries(entered, THREADS - 1)
    await asyncio.wait_for(opened.run("other", name), PATIENCE / 2)
    assert not entered.acquire(blocking=False)
    let_go.set()
    await asyncio.gather(*greedy)
    opened.close()


async def test_callers_are_served_in_turn_however_much_each_asks(path: Path):
    opened, entered, let_go = Pool(path, 1), threading.Semaphore(0), threading.Event()
    order: list[str] = []
    held = opened.start("greedy", hold, entered, let_go)
    await entries(entered, 1)
    reads = [
        opened.start(caller, lambda _, who=caller: order.append(who))
        for caller in ["greedy"] * 100 + ["b", "b", "c"]
    ]
    await asyncio.sleep(0)  # each of them is a task: they take their places in the queue now
    let_go.set()
    await asyncio.gather(held, *reads)
    assert order[:6] == ["greedy", "b", "c", "greedy", "b", "greedy"]
    assert order.count("greedy") == 100
    opened.close()


async def test_what_is_given_up_before_its_turn_is_not_read(path: Path):
    opened, entered, let_go = Pool(path, 1), threading.Semaphore(0), threading.Event()
    held = opened.start("a", hold, entered, let_go)
    await entries(entered, 1)
    given_up = [opened.start(caller, hold, entered, let_go) for caller in "aabbc"]
    last = opened.start("b", name)
    await asyncio.sleep(0)
    for read in given_up:
        read.cancel()
    let_go.set()
    await asyncio.gather(held, last)
    assert not entered.acquire(blocking=False)
    opened.close()


async def test_a_read_that_is_given_up_as_its_turn_comes_gives_the_thread_back(path: Path):
    opened, entered, let_go = Pool(path, 1), threading.Semaphore(0), threading.Event()
    held = opened.start("a", hold, entered, let_go)
    await entries(entered, 1)
    given_up = opened.start("b", name)
    held.add_done_callback(lambda _: given_up.cancel())
    await asyncio.sleep(0)
    let_go.set()
    await held
    assert await asyncio.wait_for(opened.run("c", name), PATIENCE)
    opened.close()


async def test_a_heavy_read_that_is_given_up_keeps_its_callers_next_one_waiting(path: Path):
    opened, entered, let_go = Readers(path), threading.Semaphore(0), threading.Event()
    for _ in range(5):
        given_up = opened.heavy.start("greedy", hold, entered, let_go)
        await asyncio.sleep(0)
        given_up.cancel()
    await asyncio.wait_for(opened.heavy.run("other", name), PATIENCE / 2)
    await entries(entered, 1)
    assert not entered.acquire(blocking=False)
    let_go.set()
    opened.close()

"""A disk that hangs: everybody is told so in time, probes go on, and nothing piles up."""

import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from gateway import server as server_module
from gateway.app import BUDGET
from tests.support.callbacks import NOON
from tests.support.callbacks import body as callback
from tests.support.gateway import (
    Answer,
    StallingJournal,
    gateway,
    next_answer,
    request,
)
from tests.support.waiting import eventually


def numbered(number: int) -> bytes:
    return callback("SessionBegin", NOON + number)


@pytest.fixture
def disk():
    journal = StallingJournal()
    yield journal
    journal.released.set()


def timed(future: Future[Answer]) -> Answer:
    return future.result(timeout=20)


def test_a_callback_that_cannot_be_made_durable_in_time_is_refused_in_time(disk):
    with gateway(disk) as desk:
        begun = time.monotonic()
        answer = desk.post().assert_fail(503)
        assert BUDGET - 0.1 < time.monotonic() - begun < BUDGET + 1
        assert int(answer.headers["retry-after"]) > 0
        desk.ask("GET", "/readyz").assert_fail(503)
        disk.released.set()
        desk.post().assert_ok()
        desk.ask("GET", "/readyz").assert_ok()


def test_the_time_spent_waiting_for_a_thread_counts(disk):
    with gateway(disk, threads=1) as desk, ThreadPoolExecutor(6) as pool:
        begun = time.monotonic()
        posts = [pool.submit(desk.post, numbered(number)) for number in range(6)]
        for post in posts:
            timed(post).assert_fail(503)
        assert time.monotonic() - begun < 2 * BUDGET
        assert desk.kept() == []


def test_probes_answer_while_every_thread_waits(disk):
    with gateway(disk, threads=2) as desk, ThreadPoolExecutor(4) as pool:
        posts = [pool.submit(desk.post, numbered(number)) for number in range(4)]
        eventually(lambda: disk.stalled == 2)
        desk.ask("GET", "/livez").assert_ok()
        desk.ask("GET", "/readyz").assert_ok()
        disk.released.set()
        for post in posts:
            timed(post).assert_ok()


def test_what_waits_is_bounded_and_the_rest_refused_at_once_on_a_connection_that_lives(
    disk, monkeypatch
):
    monkeypatch.setattr(server_module, "MAX_WAITING", 3)
    with gateway(disk, threads=1) as desk:
        patient = [desk.connect() for _ in range(4)]
        for number, sock in enumerate(patient):
            sock.sendall(request(numbered(number)))
            eventually(lambda: disk.stalled == 1)
        eventually(lambda: desk.waiting() == 3)

        refused = desk.connect()
        refused.sendall(request(numbered(9)))
        answer = next_answer(refused).assert_fail(503)
        assert int(answer.headers["retry-after"]) > 0
        assert "connection" not in answer.headers
        unready = desk.ask("GET", "/readyz").assert_fail(503)
        assert "overloaded" in unready.fields["ErrorInfo"]
        desk.ask("GET", "/livez").assert_ok()

        disk.released.set()
        assert [next_answer(sock).status for sock in patient] == [200] * 4
        refused.sendall(request(numbered(9)))
        next_answer(refused).assert_ok()
        assert len(desk.kept()) == 5
        desk.ask("GET", "/readyz").assert_ok()

"""A disk that hangs: everybody is told so in time, probes go on, and nothing piles up."""

import socket
import struct
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import pytest

from gateway.limits import BUDGET, Limits
from journal.group_commit import CommitLimits
from tests.support.gateway import (
    UNHURRIED,
    Answer,
    StallingJournal,
    answers_until_close,
    gateway,
    next_answer,
    numbered,
    request,
)
from tests.support.waiting import eventually


def timed(future: Future[Answer]) -> Answer:
    return future.result(timeout=60)


def test_a_callback_that_cannot_be_made_durable_in_time_is_refused_in_time(disk):
    with gateway(disk, budget=BUDGET) as desk:
        begun = time.monotonic()
        answer = desk.post().assert_fail(503)
        assert time.monotonic() - begun > BUDGET - 0.1
        assert int(answer.headers["retry-after"]) > 0
        desk.ask("GET", "/readyz").assert_fail(503)
        disk.released.set()
        eventually(lambda: desk.post().status == 200)
        eventually(lambda: desk.ask("GET", "/readyz").status == 200)


def test_waiting_for_the_disk_costs_next_to_no_time_of_the_processor(disk):
    with gateway(disk, budget=1.0) as desk, ThreadPoolExecutor(4) as pool:
        posts = [pool.submit(desk.post, numbered(number)) for number in range(4)]
        eventually(lambda: disk.appended == 4)
        busy = time.process_time()
        for post in posts:
            timed(post).assert_fail(503)
        assert time.process_time() - busy < 0.25


def test_many_callbacks_are_all_refused_in_time_and_those_that_no_commit_took_withdrawn(disk):
    with gateway(disk, budget=0.3) as desk, ThreadPoolExecutor(20) as pool:
        first = pool.submit(desk.post, numbered(0))
        assert disk.committing.wait(UNHURRIED)
        posts = [pool.submit(desk.post, numbered(number)) for number in range(1, 20)]
        for post in (first, *posts):
            timed(post).assert_fail(503)
        disk.released.set()
        eventually(lambda: desk.post(numbered(20)).status == 200)
        assert disk.stalled == 0
        assert desk.bodies() == [numbered(0), numbered(20)]


def test_the_time_of_a_pipelined_request_begins_when_it_arrives_and_not_when_its_turn_comes(disk):
    with gateway(disk, budget=0.3) as desk:
        wire = [request(numbered(number)) for number in range(3)]
        wire.append(request(numbered(3), headers="Connection: close\r\n"))
        answers = desk.raw(b"".join(wire))
        assert len(answers) == 4
        for answer in answers:
            answer.assert_fail(503)
        assert disk.appended <= 1  # the others had no time left for the disk


def test_an_answer_is_sent_as_soon_as_the_disk_is_done_and_not_at_the_next_check(disk):
    longer_than_the_client_waits = 60.0
    limits = Limits(tick=longer_than_the_client_waits, turn=longer_than_the_client_waits)
    with gateway(disk, limits=limits) as desk:
        sock = desk.connect()
        sock.sendall(request())
        eventually(lambda: disk.stalled == 1)
        disk.released.set()
        next_answer(sock).assert_ok()


def test_an_answer_that_was_given_up_is_not_given_again_when_the_disk_comes_back():
    for _ in range(5):
        with closing(StallingJournal()) as disk, gateway(disk, budget=2.0) as desk:
            sock = desk.connect()
            sock.sendall(request(numbered(1)))
            next_answer(sock).assert_fail(503)
            sock.sendall(request(numbered(2)))
            eventually(lambda: disk.appended == 2)
            disk.released.set()
            second = next_answer(sock)
            sock.sendall(request(numbered(3), headers="Connection: close\r\n"))
            [third] = answers_until_close(sock)
            third.assert_ok()
            if second.status == 200:
                assert desk.bodies() == [numbered(1), numbered(2), numbered(3)]
                return
            second.assert_fail(503)  # a busy machine was too late
    raise AssertionError("no second answer was in time")


def test_a_client_that_leaves_while_its_answer_is_held_back_harms_nobody(disk):
    with gateway(disk) as desk:
        for number in range(5):
            desk.connect().sendall(request(numbered(number)))
        eventually(lambda: disk.stalled == 5)
        for sock in desk.sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()  # with a reset
        disk.released.set()
        eventually(lambda: len(desk.kept()) == 5)
        desk.post(numbered(5)).assert_ok()
        eventually(lambda: desk.server.connections == 0)


@pytest.mark.parametrize("path", ["/", "//", "/%2F"])
def test_probes_answer_while_callbacks_wait(path):
    disk = StallingJournal(CommitLimits(slow=UNHURRIED))
    with (
        closing(disk),
        gateway(disk) as desk,
        ThreadPoolExecutor(4) as pool,
    ):
        posts = [pool.submit(desk.post, numbered(number), path=path) for number in range(4)]
        eventually(lambda: disk.stalled == 4)
        desk.ask("GET", "/livez").assert_ok()
        desk.ask("GET", "/readyz").assert_ok()
        disk.released.set()
        for post in posts:
            timed(post).assert_ok()


def test_what_waits_is_bounded_and_the_rest_refused_at_once_on_a_connection_that_lives():
    disk = StallingJournal(CommitLimits(waiting=3, slow=UNHURRIED))
    with closing(disk), gateway(disk) as desk:
        patient = [desk.connect() for _ in range(3)]
        for number, sock in enumerate(patient):
            sock.sendall(request(numbered(number)))
        eventually(lambda: disk.stalled == 3)

        refused = desk.connect()
        refused.sendall(request(numbered(9)))
        answer = next_answer(refused).assert_fail(503)
        assert int(answer.headers["retry-after"]) > 0
        assert "connection" not in answer.headers
        unready = desk.ask("GET", "/readyz").assert_fail(503)
        assert "overloaded" in unready.fields["ErrorInfo"]
        desk.ask("GET", "/livez").assert_ok()

        disk.released.set()
        assert [next_answer(sock).status for sock in patient] == [200] * 3
        refused.sendall(request(numbered(9)))
        next_answer(refused).assert_ok()
        assert len(desk.kept()) == 4
        desk.ask("GET", "/readyz").assert_ok()

"""Stopping: what was accepted is finished and answered, and then nobody is let in any more."""

import socket
from concurrent.futures import ThreadPoolExecutor

from gateway.limits import Limits
from tests.support.gateway import (
    answers_until_close,
    gateway,
    next_answer,
    numbered,
    request,
)
from tests.support.waiting import PATIENCE, eventually


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except ConnectionError:  # or reset, if the kernel let it in just before the door was shut
        return True
    return False


def test_requests_in_flight_are_answered_and_kept_and_new_connections_refused(disk):
    with gateway(disk) as desk:
        sockets = [desk.connect() for _ in range(20)]
        for number, sock in enumerate(sockets):
            sock.sendall(request(numbered(number)))
        eventually(lambda: disk.stalled == 20)

        desk.server.stop()
        eventually(lambda: is_refused(desk.port))
        assert desk.thread.is_alive()
        disk.released.set()
        for sock in sockets:
            answer = next_answer(sock).assert_ok()
            assert answer.headers["connection"] == "close"
            assert sock.recv(1) == b""
        desk.thread.join(60)
        assert not desk.thread.is_alive()
        assert len(desk.kept()) == 20


def test_pipelined_requests_are_all_answered_before_the_connection_closes(disk):
    with gateway(disk) as desk:
        sock = desk.connect()
        sock.sendall(b"".join(request(numbered(number)) for number in range(5)))
        eventually(lambda: disk.stalled == 1)
        desk.server.stop()
        eventually(lambda: is_refused(desk.port))
        disk.released.set()
        rest = b""
        while packet := sock.recv(65536):
            rest += packet
        assert rest.count(b"HTTP/1.1 200 OK") == 5
        assert rest.count(b"Connection: close") == 1
        assert len(desk.kept()) == 5


def test_a_half_received_request_may_still_arrive():
    with gateway() as desk:
        sock = desk.connect()
        wire = request(numbered(1))
        sock.sendall(wire[:-1])
        desk.post(numbered(2)).assert_ok()  # by now the gateway has seen the half
        desk.server.stop()
        eventually(lambda: is_refused(desk.port))
        sock.sendall(wire[-1:])
        answer = next_answer(sock).assert_ok()
        assert answer.headers["connection"] == "close"


def test_a_request_that_crosses_with_the_stop_on_an_idle_connection_is_answered():
    with gateway() as desk:
        sock = desk.connect()
        sock.sendall(request(numbered(1)))
        next_answer(sock).assert_ok()
        desk.server.stop()
        sock.sendall(request(numbered(2)))
        next_answer(sock).assert_ok()
        assert len(desk.kept()) == 2


def test_a_gateway_that_stops_is_not_ready_and_says_why(disk):
    with gateway(disk) as desk:
        sock = desk.connect()
        sock.sendall(request() + b"GET /readyz HTTP/1.1\r\nHost: gateway\r\n\r\n")
        eventually(lambda: disk.stalled == 1)
        desk.server.stop()
        eventually(lambda: is_refused(desk.port))
        disk.released.set()
        kept, unready = answers_until_close(sock)
        kept.assert_ok()
        assert unready.assert_fail(503).fields["ErrorInfo"] == "not ready: stopping"


def test_idle_and_half_sent_connections_do_not_hold_up_the_stop():
    with gateway(limits=Limits(drain=60.0)) as desk:
        idle, half = desk.connect(), desk.connect()
        idle.sendall(request())
        next_answer(idle).assert_ok()
        half.sendall(request()[:-1])
        desk.server.stop()
        assert idle.recv(1) == b""
        assert half.recv(1) == b""
        desk.thread.join(60)
        assert not desk.thread.is_alive()


def test_a_disk_that_hangs_does_not_hold_up_the_stop_for_ever(disk):
    with gateway(disk, budget=0.5, limits=Limits(drain=60.0)) as desk:
        sockets = [desk.connect() for _ in range(6)]
        for number, sock in enumerate(sockets):
            sock.sendall(request(numbered(number)))
        eventually(lambda: disk.appended == 6)
        desk.server.stop()
        for sock in sockets:
            next_answer(sock).assert_fail(503)
        desk.thread.join(60)
        assert not desk.thread.is_alive()


def test_a_client_that_does_not_read_does_not_hold_up_the_stop_for_ever():
    with gateway(send_buffer=4096, limits=Limits(drain=0.5)) as desk:
        sock = desk.connect()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        wire = request() * 50

        def is_stuck() -> bool:
            try:
                sock.send(wire)
            except BlockingIOError:
                return True
            return False

        eventually(is_stuck)
        desk.server.stop()
        desk.thread.join(60)
        assert not desk.thread.is_alive()


def test_stopping_under_load_loses_no_answer_that_was_earned():
    """Whoever sent a request got its answer, or a connection that was closed before any."""
    with gateway() as desk, ThreadPoolExecutor(8) as pool:

        def send_until_refused(client: int) -> int:
            acknowledged = 0
            while True:
                try:
                    answer = desk.post(numbered(client * 100_000 + acknowledged))
                except ConnectionError:
                    return acknowledged
                answer.assert_ok()
                acknowledged += 1

        clients = [pool.submit(send_until_refused, client) for client in range(8)]
        eventually(lambda: len(desk.kept()) > 200)
        desk.server.stop()
        acknowledged = sum(client.result(60) for client in clients)
        assert len(desk.kept()) == acknowledged


def test_stopping_twice_and_after_the_end_is_harmless():
    with gateway() as desk:
        desk.server.stop()
        desk.server.stop()
        desk.thread.join(60)
        assert not desk.thread.is_alive()
        desk.server.stop()


def test_stopping_from_another_thread_is_safe_at_any_moment():
    for _ in range(40):
        with gateway() as desk, ThreadPoolExecutor(4) as pool:
            stops = [pool.submit(desk.server.stop) for _ in range(8)]
            for stop in stops:
                stop.result(60)

"""Raw bytes on real connections: what is no HTTP, what is ambiguous, what is slow, what is many."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from weakref import WeakSet

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits import MAX_BODY, MAX_HEAD, Limits
from gateway.waitress_server import GreenletEvent
from tests.support.gateway import (
    CALLBACK,
    PATIENT,
    UNHURRIED,
    StallingJournal,
    answers_until_close,
    gateway,
    next_answer,
    numbered,
    query,
    request,
)
from tests.support.waiting import PATIENCE, eventually

HEAD = f"POST /?{query()} HTTP/1.1\r\nHost: gateway\r\n"


@pytest.fixture(scope="module")
def desk():
    with gateway() as running:
        yield running


NOT_HTTP = {
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    "no target": (b"POST\r\n\r\n", 400),
    "lower-case method": (b"post / HTTP/1.1\r\n\r\n", 400),
    "a header without a colon": (HEAD.encode() + b"oops\r\n\r\n", 400),
    "space before the colon": (HEAD.encode() + b"Content-Length : 5\r\n\r\n12345", 400),
    "a bare line feed": (HEAD.encode() + b"A: b\nC: d\r\n\r\n", 400),
    "a negative length": (HEAD.encode() + b"Content-Length: -1\r\n\r\n", 400),
    "a length that is no number": (HEAD.encode() + b"Content-Length: 0x10\r\n\r\n", 400),
    "a length with a plus sign": (HEAD.encode() + b"Content-Length: +5\r\n\r\n12345", 400),
    "too large headers": (HEAD.encode() + b"A: " + b"x" * MAX_HEAD + b"\r\n\r\n", 431),
    "too many headers": (HEAD.encode() + b"A: b\r\n" * MAX_HEAD + b"\r\n", 431),
    "a long target": (b"POST /?" + b"x" * MAX_HEAD + b" HTTP/1.1\r\n\r\n", 431),
    "a declared body that is too large": (
        HEAD.encode() + b"Content-Length: 99999999999999\r\n\r\n" + b"x" * 10_000,
        413,
    ),
    "a transfer coding that is not there": (
        HEAD.encode() + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    "a bad chunk size": (HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n", 400),
    "a chunk with a bad end": (
        HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        400,
    ),
}


@pytest.mark.parametrize(("wire", "status"), NOT_HTTP.values(), ids=NOT_HTTP.keys())
def test_what_is_no_request_is_answered_in_shape_and_ends_the_connection(desk, wire, status):
    before = len(desk.kept())
    [answer] = desk.raw(wire)
    answer.assert_fail(status)
    assert answer.headers["connection"] == "close"
    assert len(desk.kept()) == before


INNER = request(numbered(666))

SMUGGLED = {
    "two lengths": "Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "two equal lengths": "Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
    "a list of lengths": "Content-Length: 0, 5\r\n\r\n",
    "length, then chunks": "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks, then length": "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "chunked twice": "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two headers": (
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "an empty coding": "Transfer-Encoding:\r\n\r\n",
    "a folded coding": "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a coding with a comma": "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
}


EXPECT = "Expect: 100-continue\r\n"


@pytest.mark.parametrize("expect", ["", EXPECT], ids=["", "expecting 100"])
@pytest.mark.parametrize("headers", SMUGGLED.values(), ids=SMUGGLED.keys())
def test_a_request_of_ambiguous_length_is_refused_with_all_that_follows(desk, headers, expect):
    before = desk.bodies()
    [answer] = desk.raw(f"{HEAD}{expect}{headers}".encode() + INNER)
    answer.assert_fail(400)
    assert answer.headers["connection"] == "close"
    assert desk.bodies() == before


def test_chunks_in_http_1_0_are_refused(desk):
    head = HEAD.replace("HTTP/1.1", "HTTP/1.0")
    before = desk.bodies()
    [answer] = desk.raw(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER)
    answer.assert_fail(400)
    assert desk.bodies() == before


@settings(max_examples=150)
@given(wire=st.binary(min_size=1, max_size=200), prefix=st.sampled_from([b"", HEAD.encode()]))
def test_no_bytes_whatever_break_the_gateway(desk, wire, prefix):
    sock = desk.connect()
    sock.sendall(prefix + wire)
    sock.shutdown(socket.SHUT_WR)
    for answer in answers_until_close(sock):
        assert answer.headers["content-type"] == "application/json"
        assert set(answer.fields) == {"ActionStatus", "ErrorInfo", "ErrorCode"}
    sock.close()


def test_http_1_0_is_answered_and_closed(desk):
    [answer] = desk.raw(request().replace(b"HTTP/1.1", b"HTTP/1.0"))
    answer.assert_ok()


def test_expect_continue_is_honoured(desk):
    sock = desk.connect()
    wire = request(numbered(100), headers="Expect: 100-continue\r\n")
    head, _, body = wire.partition(b"\r\n\r\n")
    sock.sendall(head + b"\r\n\r\n")
    assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
    sock.sendall(body)
    next_answer(sock).assert_ok()


def test_pipelined_requests_are_answered_in_their_order(desk):
    wire = b"".join(request(body) for body in (numbered(1), b"nonsense", numbered(2), numbered(3)))
    wire += request(numbered(4), headers="Connection: close\r\n")
    assert [answer.status for answer in desk.raw(wire)] == [200, 400, 200, 200, 200]


@pytest.mark.parametrize("tokens", ["close, TE", "TE,close", "upgrade , Close", "TE; close"])
def test_a_client_that_closes_may_say_more_of_the_connection(desk, tokens):
    connection = "".join(f"Connection: {each}\r\n" for each in tokens.split("; "))
    for wire in (
        request(headers=connection),
        f"GET /livez HTTP/1.1\r\nHost: gateway\r\n{connection}\r\n".encode(),
    ):
        [answer] = desk.raw(wire)
        assert answer.assert_ok().headers["connection"] == "close"


def test_to_expect_continue_without_a_body_is_to_expect_nothing(desk):
    nothing = request(b"", headers=EXPECT)
    probe = (
        f"GET /livez HTTP/1.1\r\nHost: gateway\r\n{EXPECT}Content-Encoding: gzip\r\n\r\n".encode()
    )
    last = request(numbered(101), headers="Connection: close\r\n")
    assert [each.status for each in desk.raw(nothing, probe, last)] == [400, 200, 200]


def test_a_body_that_would_be_too_large_is_refused_before_it_is_asked_for(desk):
    [answer] = desk.raw(f"{HEAD}{EXPECT}Content-Length: 999999\r\n\r\n".encode())
    answer.assert_fail(413)


def test_a_request_that_was_answered_is_forgotten():
    waiting: WeakSet[GreenletEvent] = WeakSet()

    def event() -> GreenletEvent:
        made = GreenletEvent()
        waiting.add(made)
        return made

    disk = StallingJournal()
    try:
        with gateway(disk, event=event) as desk:
            sock = desk.connect()
            for number in range(30):
                sock.sendall(request(numbered(number)))
                desk.connect().sendall(request(b"%d" % number))
                eventually(lambda: disk.stalled == 2)
                assert waiting
                disk.released.set()
                next_answer(sock).assert_ok()
                eventually(lambda: disk.stalled == 0)
                disk.released.clear()
            disk.released.set()
            desk.post().assert_ok()
            eventually(lambda: len(waiting) <= 2)
    finally:
        disk.close()


def test_a_client_that_reads_late_gets_all_its_answers_in_order():
    bodies = [numbered(number) if number % 3 else b"%d" % number for number in range(300)]
    wire = b"".join(request(body) for body in bodies) + request(headers="Connection: close\r\n")
    with gateway(send_buffer=4096) as desk, ThreadPoolExecutor(1) as pool:
        sock = socket.socket()
        desk.sockets.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", desk.port))
        sending = pool.submit(sock.sendall, wire)
        eventually(desk.stands_still)
        assert len(desk.kept()) < len(bodies)  # the gateway waits until the client reads
        answers = answers_until_close(sock)
        sending.result(timeout=60)
        assert [answer.status for answer in answers] == [*([400, 200, 200] * 100), 200]
        assert desk.bodies() == [*bodies, CALLBACK]


def test_a_length_that_is_too_short_cuts_the_body_there(desk):
    body = numbered(200)
    wire = request(body).replace(b"Content-Length: %d" % len(body), b"Content-Length: 20")
    kept, refused = desk.raw(wire + b"\r\n\r\n")
    kept.assert_fail(400)
    refused.assert_fail(400)
    assert desk.bodies()[-1] == body[:20]


def test_a_length_that_is_too_long_keeps_nothing(desk):
    before = desk.bodies()
    sock = desk.connect()
    wire = request(numbered(300)).replace(b"Content-Length: ", b"Content-Length: 9")
    sock.sendall(wire)
    sock.shutdown(socket.SHUT_WR)
    assert sock.recv(100) == b""
    assert desk.bodies() == before


def test_a_body_that_arrives_byte_by_byte_is_kept_whole(desk):
    sock = desk.connect()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    body = numbered(400)
    for byte in request(body):
        sock.send(bytes([byte]))
    next_answer(sock).assert_ok()
    assert body in desk.bodies()


def test_half_requests_do_not_hold_up_others():
    with gateway() as desk:
        half = request()[:-1]
        waiting = [desk.connect() for _ in range(100)]
        for sock in waiting:
            sock.sendall(half)
        desk.post(numbered(1)).assert_ok()
        for sock in waiting:
            sock.sendall(CALLBACK[-1:])
        assert [next_answer(sock).status for sock in waiting] == [200] * 100
        assert desk.bodies() == [numbered(1), CALLBACK]


def test_a_request_that_takes_too_long_to_arrive_is_given_up():
    with gateway(limits=Limits(receive=0.2, turn=0.05)) as desk:
        slow, idle = desk.connect(), desk.connect()
        slow.sendall(request()[:-1])
        assert slow.recv(100) == b""
        idle.sendall(request())
        next_answer(idle).assert_ok()
        assert len(desk.kept()) == 1


def test_an_oversize_sender_that_never_stops_is_given_up():
    with gateway(limits=Limits(linger=0.2, turn=0.05)) as desk:
        sock = desk.connect()
        sock.sendall(HEAD.encode() + b"Content-Length: 1000000000\r\n\r\n")

        def is_cut_off() -> bool:
            try:
                sock.sendall(b"x" * MAX_BODY)
            except OSError:
                return True
            return False

        eventually(is_cut_off)
        desk.post().assert_ok()


def test_connections_that_say_nothing_make_room_for_those_that_do():
    with gateway(limits=Limits(connections=10, per_address=0)) as desk:
        silent = [desk.connect() for _ in range(10)]
        desk.post().assert_ok()
        desk.ask("GET", "/livez").assert_ok()
        assert len(silent) == 10


def test_connections_over_the_limit_wait_and_are_served_in_their_turn():
    with gateway(
        limits=replace(PATIENT, connections=8, per_address=0, spared_when_full=UNHURRIED)
    ) as desk:
        held = [desk.connect() for _ in range(8)]
        for sock in held:
            sock.sendall(request())
            next_answer(sock).assert_ok()
        late = desk.connect()
        late.sendall(request(numbered(1)))
        late.settimeout(0.3)
        with pytest.raises(TimeoutError):
            late.recv(1)
        held[0].close()
        late.settimeout(PATIENCE)
        next_answer(late).assert_ok()


LIVE = b"GET /livez HTTP/1.1\r\nHost:\r\n\r\n"


def test_connections_that_are_active_make_room_for_another_client():
    stopped = threading.Event()
    lost: list[socket.socket] = []

    def ask_again_and_again(desk, address: str) -> None:
        sockets: list[socket.socket] = []
        while not stopped.is_set():
            while len(sockets) < 16:
                sock = socket.create_connection(("127.0.0.1", desk.port), PATIENCE, (address, 0))
                sockets.append(sock)
            for sock in sockets.copy():
                try:
                    sock.sendall(LIVE)
                    assert sock.recv(1000)
                except (OSError, AssertionError):
                    sockets.remove(sock)
                    lost.append(sock)
        for sock in sockets:
            sock.close()

    limits = Limits(connections=32)
    with gateway(limits=limits) as desk, ThreadPoolExecutor(2) as pool:
        crowd = [pool.submit(ask_again_and_again, desk, f"127.0.1.{each}") for each in (1, 2)]
        try:
            eventually(lambda: desk.server.connections >= 31)
            for number in range(5):
                desk.post(numbered(number)).assert_ok()
            eventually(lambda: lost)
        finally:
            stopped.set()
        for each in crowd:
            each.result(timeout=60)


def test_a_burst_from_one_address_is_answered_whole():
    wire = request()
    for parts in ([wire], [wire[:-1], wire[-1:]]):
        with gateway(limits=Limits(per_address=20, spared=PATIENCE)) as desk:
            burst = [desk.connect() for _ in range(100)]
            for part in parts:
                for sock in burst:
                    sock.sendall(part)
            assert [next_answer(sock).status for sock in burst] == [200] * 100


def test_a_connection_with_thousands_of_requests_does_not_hold_up_others(desk):
    number = 4 * 8192 // len(LIVE)
    crowd = [desk.connect() for _ in range(20)]
    for sock in crowd:
        sock.sendall(LIVE * number)
    desk.ask("GET", "/livez").assert_ok()
    peek = socket.MSG_PEEK | socket.MSG_DONTWAIT
    answered = [sock.recv(1 << 20, peek).count(b"200 OK") for sock in crowd]
    assert sum(answered) < number * len(crowd)
    for sock in crowd:
        sock.close()


def test_many_callbacks_at_once_are_each_kept_once(desk):
    bodies = [numbered(1000 + number) for number in range(100)]
    before = len(desk.kept())
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(desk.post, bodies * 2))
    assert {answer.status for answer in answers} == {200}
    assert sorted(desk.bodies()[before:]) == sorted(bodies)

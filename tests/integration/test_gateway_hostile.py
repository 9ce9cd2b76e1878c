"""Bad senders: heads that take long, half-sent requests, crowds, and what the log says of them."""

import http.client
import json
import math
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from command.throttle import Throttle
from gateway.limits import MAX_HEAD, Limits
from gateway.waitress_server import Server
from tests.support.gateway import (
    CALLBACK,
    PATIENT,
    Gateway,
    gateway,
    next_answer,
    numbered,
    query,
    request,
)
from tests.support.waiting import PATIENCE, eventually

HOST = b"Host: gateway\r\n"
LINE = f"POST /?{query()} HTTP/1.1\r\n".encode()
END = b"\r\n\r\n"


@pytest.fixture(scope="module")
def desk():
    with gateway() as running:
        yield running


N = MAX_HEAD - 600

HOSTILE = {
    "an absolute target of digits": b"POST a://" + b"1" * N + b" x" + END,
    "spaces and NUL in a field": LINE + HOST + b"X:" + b" " * N + b"\x00" + END,
    "tabs and NUL in a field": LINE + HOST + b"X:" + b"\t" * N + b"\x00" + END,
    "a coding with spaces inside": (
        b"POST / HTTP/1.0\r\nTransfer-Encoding: a" + b" " * N + b"b" + END
    ),
}


@pytest.mark.parametrize("wire", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_head_holds_up_another_client(desk, wire):
    attackers = [desk.connect() for _ in range(5)]
    other = desk.connect()
    for sock in attackers:
        sock.sendall(wire)
    busy = time.process_time()
    other.sendall(request())
    next_answer(other).assert_ok()
    for sock in attackers:
        next_answer(sock).assert_fail(400)
    assert time.process_time() - busy < 1.0


REFUSED = {
    "a length of 5,000 digits": LINE + HOST + b"Content-Length: " + b"1" * 5000 + END,
    "a target that is no URL": b"POST http://[ HTTP/1.1\r\n" + HOST + END[2:],
    "a target with brackets": b"POST http://[x]/ HTTP/1.1\r\n" + HOST + END[2:],
    "two hosts": LINE + HOST + b"Host: other\r\nContent-Length: 2" + END + b"{}",
    "no host": LINE + b"Content-Length: 2" + END + b"{}",
    "NUL in the target": b"POST /\x00 HTTP/1.1\r\n" + HOST + END[2:],
    "a vertical tab in front": b"\x0b" + request(),
    "a form feed in front": b"\x0c" + request(),
    "two empty lines in front": b"\r\n\r\n" + request(),
    "close and keep-alive": request(headers="Connection: close\r\nConnection: keep-alive\r\n"),
    "an end in LF CR LF": request().replace(b" HTTP/1.1\r\n", b" HTTP/1.1\n\r\n"),
    "a folded coding": LINE + HOST + b"Transfer-Encoding: chunked\r\n ,chunked" + END,
    "an empty line before a chunk": (
        LINE + HOST + b"Transfer-Encoding: chunked" + END + b"\r\n0\r\n\r\n"
    ),
    "a chunk's size that ends in LF CR LF": (
        LINE + HOST + b"Transfer-Encoding: chunked" + END + b"2\n\r\n{}\r\n0\r\n\r\n"
    ),
    "trailers": LINE + HOST + b"Transfer-Encoding: chunked" + END + b"0\r\nA: b\r\n\r\n",
}


@pytest.mark.parametrize("wire", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_ambiguous_gets_400_and_the_one_in_front_its_answer(desk, wire):
    before = len(desk.kept())
    kept, refused = desk.raw(request(numbered(before)) + wire)
    kept.assert_ok()
    refused.assert_fail(400)
    assert refused.headers["connection"] == "close"
    assert len(desk.kept()) == before + 1


def test_an_empty_line_in_front_of_a_request_is_forgiven(desk):
    last = request(headers="Connection: close\r\n")
    assert [each.status for each in desk.raw(b"\r\n" + request() + b"\r\n" + last)] == [200] * 2


def test_a_refusal_of_http_1_0_says_once_what_becomes_of_the_connection(desk):
    sock = desk.connect()
    sock.sendall(b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nA\r\n\r\n")
    said = b""
    while packet := sock.recv(4096):
        said += packet
    assert said.lower().count(b"\r\nconnection:") == 1


def test_whoever_goes_on_sending_behind_a_refusal_can_read_it_and_is_cut_off():
    with gateway(limits=Limits(linger=0.3, turn=0.05)) as desk:

        def refused() -> socket.socket | None:
            sock = desk.connect()
            with suppress(ConnectionError):  # a busy machine: cut off before the answer was read
                sock.sendall(b"nonsense" + END + b"x" * 100_000)
                next_answer(sock).assert_fail(400)
                return sock
            return None

        sock = next((each for _ in range(3) if (each := refused())), None)
        assert sock, "the answer could not be read, three times"

        def is_cut_off() -> bool:
            try:
                sock.sendall(b"x" * 1000)
            except OSError:
                return True
            return False

        eventually(is_cut_off)


def test_refusals_are_one_line_a_kind_with_the_cause_and_quote_no_query_header_or_body():
    with capture_logs([Throttle(period=math.inf)]) as logs, gateway() as desk:
        for _ in range(20):
            desk.raw(b"s3cret ? HTTP/1.1" + END)
            desk.ask("POST", "/else%1Bwhere?s3cret").assert_fail(404)
            desk.ask("DELETE", "/?s3cret").assert_fail(405)
            desk.ask("S3CRET", "/").assert_fail(405)
            desk.post(headers={"Content-Encoding": "s3cret"}).assert_fail(415)
            desk.post(b"s3cret" * 50_000).assert_fail(413)
            desk.post(CallbackCommand=None).assert_fail(400)
    told = [(line["event"], line["reason"]) for line in logs]
    assert told == [
        ("request_refused", "the request line is not: method, path, HTTP/1.0 or HTTP/1.1"),
        ("request_refused", "unknown path"),
        ("request_refused", "method not allowed for this path"),
        ("request_refused", "Content-Encoding must be identity"),
        ("request_refused", "the body is too large"),
        ("callback_command_refused", "CallbackCommand is missing"),
    ]
    assert (logs[1]["method"], logs[1]["path"]) == ("POST", "/else%1Bwhere")
    assert (logs[2]["method"], logs[2]["path"]) == ("DELETE", "/")
    assert logs[4]["limit"] == 256 * 1024
    assert "s3cret" not in repr(logs).lower()


def test_whoever_posts_is_told_the_revision_and_a_repetition_that_of_the_first_copy(desk):
    first = desk.post(numbered(7001)).assert_ok()
    other = desk.post(numbered(7002)).assert_ok()
    again = desk.post(numbered(7001), RequestID="again").assert_ok()
    [entry] = [entry for entry in desk.kept() if entry.body == numbered(7001)]
    assert first.headers["desk-revision"] == again.headers["desk-revision"] == str(entry.revision)
    assert int(other.headers["desk-revision"]) == entry.revision + 1
    assert first.headers["desk-journal-id"] == desk.journal.id
    malformed = desk.post(b"nonsense").assert_fail(400)
    assert int(malformed.headers["desk-revision"]) == entry.revision + 2
    assert "desk-revision" not in desk.post(SdkAppid=1).headers


def is_open(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


@contextmanager
def half_sending(desk: Gateway, count: int, source: str) -> Iterator[None]:
    """As many half-sent requests as that, each replaced as soon as it is given up."""
    stop = threading.Event()

    def connect() -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", desk.port), PATIENCE, (source, 0))
        sock.sendall(LINE)
        sock.setblocking(False)
        return sock

    def work() -> None:
        held = [connect() for _ in range(count)]
        while not stop.wait(0.01):
            for number, sock in enumerate(held):
                if not is_open(sock):
                    sock.close()
                    held[number] = connect()
        for sock in held:
            sock.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)


@pytest.mark.parametrize("per_address", [None, 0], ids=["limited", "behind a proxy"])
@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
def test_half_sent_requests_of_one_address_do_not_keep_callbacks_out(per_address, source):
    # `receive` is longer than a client waits: only the other limits make room.
    limits = Limits(connections=60, per_address=per_address, receive=60.0)
    with gateway(limits=limits) as desk, half_sending(desk, 80, source):
        eventually(lambda: desk.server.connections >= limits.of_one_address * 0.7)
        for number in range(10):
            desk.post(numbered(number)).assert_ok()
            assert desk.server.connections <= 60


def test_half_sent_bodies_do_not_take_memory_without_bound():
    with gateway(limits=replace(PATIENT, half_sent_bytes=1_000_000)) as desk:
        half = request(b"x" * 200_000)[:-1]
        senders = [desk.connect() for _ in range(20)]
        for sock in senders:
            sock.sendall(half)
            sock.setblocking(False)
        eventually(lambda: sum(map(is_open, senders)) == 5)
        desk.post().assert_ok()
        assert sum(map(is_open, senders)) == 5


def test_a_clock_that_is_set_back_does_not_keep_connections_open(monkeypatch):
    now = time.time
    with gateway(limits=Limits(receive=0.3, idle=0.6, turn=0.05)) as desk:
        idle, half = desk.connect(), desk.connect()
        idle.sendall(request())
        next_answer(idle).assert_ok()
        half.sendall(request()[:-1])
        monkeypatch.setattr(time, "time", lambda: now() - 3600)
        assert half.recv(1) == b""
        assert idle.recv(1) == b""


def test_a_crowd_is_logged_in_one_line():
    limits = Limits(per_address=3, spared=0.2, turn=0.05)
    with capture_logs([Throttle(period=math.inf)]) as logs, gateway(limits=limits) as desk:
        for _ in range(20):
            desk.connect()
        eventually(lambda: logs)
        eventually(lambda: desk.server.connections <= 3)
        desk.post().assert_ok()
    assert [line["event"] for line in logs] == ["too_many_connections"]


FEW_FILES = """
import json, socket, threading
from gateway.app import create_app
from gateway.authentication import Authenticator
from gateway.waitress_server import GreenletEvent, Server
from journal.memory import MemoryJournal
authenticator = Authenticator(frozenset({1600012345}), {})
app = create_app(MemoryJournal(), authenticator, event=GreenletEvent, budget=60.0)
sock = socket.create_server(("127.0.0.1", 0))
server = Server(app, sock)
print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
server.run()
"""


def test_with_few_file_descriptors_it_serves_what_it_can_and_says_so():
    command = [sys.executable, "-c", FEW_FILES]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert "few_connections" in said
        port = json.loads(process.stdout.readline())["port"]
        desk = Gateway(port, None)  # type: ignore[arg-type]
        silent = [desk.connect() for _ in range(80)]
        desk.post().assert_ok()
        for sock in silent:
            sock.close()
        process.terminate()


def test_connections_are_counted_by_what_is_left_of_the_file_descriptors(monkeypatch):
    def logged(files: int) -> list[int]:
        """The connections of a process with so many file descriptors, if they are few."""
        monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
        with capture_logs() as logs, socket.create_server(("127.0.0.1", 0)) as sock:
            Server(lambda environ, start_response: [], sock)
        return [line["connections"] for line in logs]

    assert logged(10) == [1]
    assert logged(1_000_000) == []
    used = len(os.listdir("/proc/self/fd"))
    [connections] = logged(used + 50)
    assert 0 < connections < 50


def test_urgent_data_costs_no_time_of_the_processor(desk):
    wire = request(numbered(8001))
    sock = desk.connect()
    sock.send(wire[:9], socket.MSG_OOB)
    sock.settimeout(0.5)
    busy = time.process_time()
    with pytest.raises(TimeoutError):
        sock.recv(1)
    assert time.process_time() - busy < 0.25
    sock.settimeout(PATIENCE)
    sock.sendall(wire[9:])
    next_answer(sock).assert_ok()
    assert numbered(8001) in desk.bodies()


def test_those_who_do_not_read_their_answers_do_not_keep_callbacks_out():
    long = 60.0
    limits = Limits(
        connections=10, per_address=0, unread=0.2, receive=long, spared=long, spared_when_full=long
    )
    with gateway(send_buffer=4096, limits=limits) as desk:
        for client in range(9):
            sock = socket.socket()
            desk.sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", desk.port))
            sock.setblocking(False)
            wire = b"".join(request(numbered(1000 * client + number)) for number in range(300))
            with suppress(BlockingIOError):
                sock.send(wire)
        eventually(desk.stands_still)
        desk.connect()
        desk.post(numbered(10_000)).assert_ok()


def test_a_bug_in_a_refusal_ends_one_connection_and_not_the_gateway():
    def fail(_: object, __: str, event: dict[str, object]) -> dict[str, object]:
        if event["event"] == "request_refused":
            raise ZeroDivisionError("s3cret")
        return event

    with capture_logs([fail]) as logs, gateway() as desk:
        assert desk.raw(b"nonsense" + END) == []
        desk.post().assert_ok()
    assert {(line["event"], line["reason"]) for line in logs} == {
        ("connection_failed", "ZeroDivisionError")
    }
    assert "s3cret" not in repr(logs)


def test_an_answer_that_breaks_off_is_no_news(desk):
    with capture_logs() as logs:
        for number in range(20):
            connection = http.client.HTTPConnection("127.0.0.1", desk.port)
            connection.request("POST", f"/?{query()}", numbered(9000 + number))
            connection.close()
        eventually(lambda: numbered(9019) in desk.bodies())
        desk.post(CALLBACK).assert_ok()
    assert logs == []

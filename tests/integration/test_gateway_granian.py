"""What is Granian's own: how it reads, how it stops, and how it is chosen.

What it has in common with waitress is in the other modules, whose fixture `server` names it.
"""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from desk.cli import server as commands
from gateway import server as limits
from gateway.callbacks import MAX_BODY
from tests.support.callbacks import NOON
from tests.support.callbacks import body as callback
from tests.support.gateway import CALLBACK, StallingJournal, gateway, next_answer, query, request
from tests.support.processes import start
from tests.support.waiting import eventually

granian = pytest.importorskip("gateway.granian", exc_type=ImportError)

HEAD = f"POST /?{query()} HTTP/1.1\r\nHost: gateway\r\n".encode()
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def numbered(number: int) -> bytes:
    return callback("SessionBegin", NOON + number)


@pytest.fixture(autouse=True)
def _on_granian(monkeypatch):
    monkeypatch.setattr("tests.support.gateway.Server", granian.Server)


@pytest.fixture
def desk():
    with gateway() as running:
        yield running


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding:\r\n\r\n",
    ],
)
def test_a_request_of_ambiguous_length_is_refused_with_all_that_follows(desk, framing):
    [answer] = desk.raw(HEAD + framing + request(numbered(666)))
    assert answer.status == 400
    assert numbered(666) not in desk.bodies()


def test_a_chunked_body_is_kept_whole(desk):
    sock = desk.connect()
    sock.sendall(CHUNKED)
    for part in (CALLBACK[:1], CALLBACK[1:]):
        sock.sendall(b"%x\r\n%b\r\n" % (len(part), part))
    sock.sendall(b"0\r\n\r\n")
    next_answer(sock).assert_ok()
    assert desk.bodies() == [CALLBACK]


@pytest.mark.parametrize("wire", [CHUNKED + b"5\r\nabcde\r\n", request()[:-1]])
def test_a_body_whose_sender_left_is_not_kept(desk, wire):
    sock = desk.connect()
    sock.sendall(wire)
    desk.post(numbered(1)).assert_ok()  # by now the gateway has seen the half
    sock.shutdown(socket.SHUT_WR)
    assert b"200" not in sock.recv(100)
    assert desk.bodies() == [numbered(1)]


@pytest.mark.parametrize(
    "wire",
    [
        HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1) + b"x" * (MAX_BODY + 1),
        CHUNKED + b"%x\r\n" % (MAX_BODY + 1) + b"x" * (MAX_BODY + 1) + b"\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 99999999999999\r\n\r\n",
        HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1),
    ],
)
def test_who_sends_too_much_gets_to_read_that_it_is_too_much(desk, wire):
    [answer] = desk.raw(wire)
    answer.assert_fail(413)
    assert desk.kept() == []


def test_a_body_that_takes_too_long_to_arrive_is_given_up(monkeypatch):
    monkeypatch.setattr(limits, "RECEIVE", 0.2)
    with gateway() as desk:
        [answer] = desk.raw(request()[:-1])
        answer.assert_fail(503)
        desk.post().assert_ok()


def test_half_requests_do_not_hold_up_others(desk):
    waiting = [desk.connect() for _ in range(100)]
    for sock in waiting:
        sock.sendall(request()[:-1])
    desk.post(numbered(1)).assert_ok()
    for sock in waiting:
        sock.sendall(CALLBACK[-1:])
    assert [next_answer(sock).status for sock in waiting] == [200] * 100
    assert desk.bodies() == [numbered(1), CALLBACK]


def test_connections_over_the_limit_wait_and_are_served_in_their_turn(monkeypatch):
    monkeypatch.setattr(limits, "MAX_CONNECTIONS", 8)
    with gateway() as desk:
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
        late.settimeout(20)
        next_answer(late).assert_ok()


def test_many_callbacks_at_once_are_each_kept_once(desk):
    bodies = [numbered(number) for number in range(300)]
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(desk.post, bodies * 2))
    assert {answer.status for answer in answers} == {200}
    assert sorted(desk.bodies()) == sorted(bodies)


def test_a_half_received_request_may_still_arrive_while_it_stops(monkeypatch):
    monkeypatch.setattr(limits, "GRACE", 1.0)
    with gateway() as desk:
        sock = desk.connect()
        sock.sendall(request()[:-1])
        desk.post(numbered(2)).assert_ok()  # by now the gateway has seen the half
        desk.server.stop()
        eventually(lambda: desk.ask("GET", "/readyz").status == 503)
        sock.sendall(request()[-1:])
        answer = next_answer(sock).assert_ok()
        assert answer.headers["connection"] == "close"


def test_idle_and_half_sent_connections_do_not_hold_up_the_stop(desk):
    idle, half = desk.connect(), desk.connect()
    idle.sendall(request())
    next_answer(idle).assert_ok()
    half.sendall(request()[:-1])
    begun = time.monotonic()
    desk.server.stop()
    assert idle.recv(1) == b""
    next_answer(half).assert_fail(503)
    desk.thread.join(10)
    assert time.monotonic() - begun < limits.DRAIN / 2


def test_a_client_that_leaves_while_its_answer_is_held_back_harms_nobody():
    disk = StallingJournal()
    with gateway(disk) as desk:
        for number in range(5):
            desk.connect().sendall(request(numbered(number)))
        eventually(lambda: disk.stalled == 5)
        for sock in desk.sockets:
            sock.close()
        disk.released.set()
        eventually(lambda: len(desk.kept()) == 5)
        desk.post(numbered(5)).assert_ok()
    disk.close()


@pytest.mark.parametrize("chosen", [{"--server": "granian"}, {"DESK_HTTP_SERVER": "Granian"}])
def test_the_command_runs_on_it_and_stops_in_order(tmp_path: Path, chosen):
    options = [word for pair in chosen.items() if pair[0] == "--server" for word in pair]
    settings = {name: value for name, value in chosen.items() if name.isupper()}
    with start("gateway", *options, data_dir=tmp_path / "data", **settings) as desk:
        status, answer = desk.post(CALLBACK)
        assert (status, answer["ActionStatus"]) == (200, "OK")
        assert desk.terminate() == 0
    assert not [line for line in desk.stderr if "error" in line.lower()]
    assert desk.stdout == []


def test_without_the_package_one_line_says_what_to_install(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(commands, "find_spec", lambda _name: None)
    environment = {"DESK_SDK_APP_IDS": "1", "DESK_DATA_DIR": str(tmp_path)}
    done = CliRunner().invoke(commands.gateway, ["--server", "granian"], env=environment)
    assert done.exit_code == 2
    assert "pip install 'desk-sessions[granian]'" in done.output.splitlines()[-1]

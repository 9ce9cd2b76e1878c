"""The gateway's event loop: who gets a connection, and when."""

import ast
import inspect
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer

from gateway import waitress_server
from gateway.waitress_server import Server

BURST = 40
SMALLEST = b"GET / HTTP/1.1\r\nHost:\r\n\r\n"


class CountingApp:
    """A WSGI application that counts the requests of each client's port."""

    def __init__(self, answer: bytes = b"") -> None:
        self.answer = answer
        self.answered: Counter[str] = Counter()

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        self.answered[environ["REMOTE_PORT"]] += 1
        start_response("200 OK", [("Content-Length", str(len(self.answer)))])
        return [self.answer]


@contextmanager
def listening(clients: int, sends: bytes = b"", app: Any = None) -> Iterator[Server]:
    """A server that has not run yet, and clients that the kernel has connected to it."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2 * BURST)
    listener.setblocking(False)
    with ExitStack() as stack:
        made = Server(app or CountingApp(), listener, per_address=0)
        stack.callback(made.close)
        for _ in range(clients):
            client = socket.create_connection(listener.getsockname(), timeout=5)
            stack.enter_context(closing(client))
            client.sendall(sends)
        yield made


def test_a_burst_of_connections_is_taken_in_one_turn():
    with listening(BURST) as made:
        made._loop.turn(1.0)
        assert len(made._loop.active_channels) == BURST


def test_of_a_burst_no_more_are_taken_than_there_may_be(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(waitress_server, "affordable_connections", lambda: 10)
    with listening(BURST) as made:
        made._loop.turn(1.0)
        assert 0 < len(made._loop.active_channels) <= 10


def test_of_a_connection_a_turn_reads_and_answers_one_request():
    app = CountingApp()
    with listening(3, SMALLEST * 300, app) as made:
        made._loop.turn(1.0)  # which accepts
        for turns in range(1, 11):
            made._loop.turn(1.0)
            assert list(app.answered.values()) == [turns] * 3
            channels = made._loop.active_channels.values()
            assert [len(each.requests) for each in channels] == [1] * 3


def test_a_turn_answers_no_longer_than_its_time_and_everybody_in_turn(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(waitress_server, "SLICE", 0.0)
    app = CountingApp()
    with listening(5, SMALLEST * 300, app) as made:
        made._loop.turn(1.0)
        for turns in range(1, 11):
            made._loop.turn(1.0)
            assert app.answered.total() == turns
        assert list(app.answered.values()) == [2] * 5


def test_a_server_that_is_told_to_stop_answers_what_has_arrived_and_ends_its_connections():
    app = CountingApp()
    with listening(3, SMALLEST * 300, app) as made:
        made._loop.turn(1.0)
        made.stop()
        made.run()
        assert list(app.answered.values()) == [300] * 3


def test_draining_looks_at_the_clock_however_much_there_is_to_answer(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(waitress_server, "DRAIN", 0.0)
    app = CountingApp()
    with listening(3, SMALLEST * 300, app) as made:
        made._loop.turn(1.0)
        made.stop()
        made.run()
        assert app.answered.total() <= 3


def test_when_room_is_short_the_answer_before_a_pipelined_request_is_the_last(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(waitress_server, "affordable_connections", lambda: 3)
    app = CountingApp()
    with listening(3, SMALLEST * 300, app) as made:
        for _ in range(4):
            made._loop.turn(1.0)
        assert sorted(app.answered.values())[0] == 1
        assert len(made._loop.active_channels) == 2


def test_a_client_that_does_not_read_gets_no_further_answers():
    app = CountingApp(answer=b"x" * 256 * 1024)
    with listening(1, SMALLEST * 300, app) as made:
        for _ in range(350):
            made._loop.turn(0.0)
        assert 0 < app.answered.total() < 200  # what the kernel takes is no more


def test_a_server_that_can_accept_nobody_any_more_ends(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(waitress_server._Channel, "__init__", fail)
    with listening(1) as made, pytest.raises(OSError, match="listening"):
        made.run()


def test_of_waitress_hardly_anything_is_overridden():
    overridden = {
        f"{base.__name__}.{name}"
        for ours in vars(waitress_server).values()
        if isinstance(ours, type) and ours.__module__ == waitress_server.__name__
        for name, value in vars(ours).items()
        for base in ours.__mro__[1:]
        if base.__module__.startswith("waitress.") and callable(vars(base).get(name))
        if not name.startswith("__") and not isinstance(value, type)
    }
    assert overridden == {"BaseWSGIServer.pull_trigger"}


def test_no_private_name_of_waitress_is_used():
    tree = ast.parse(inspect.getsource(waitress_server))
    private = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and re.match("_[a-z]", node.attr)
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    }
    assert private <= {"_loop"}
    names = {name for base in (HTTPChannel, TcpWSGIServer) for name in dir(base)}
    own = set(vars(waitress_server._EventLoop)) | set(vars(waitress_server._Channel))
    assert not {name for name in own & names if re.match("_[a-z]", name)}

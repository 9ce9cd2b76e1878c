"""The event loop: which client gets a connection and an answer, and in which turn."""

import ast
import inspect
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer

from gateway import waitress_channel, waitress_server
from gateway.limits import Limits
from gateway.waitress_server import EventLoop, Server

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
def connected(clients: int, sends: bytes = b"") -> Iterator[socket.socket]:
    """A listening socket, and clients that the kernel has connected to it."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2 * BURST)
    listener.setblocking(False)
    with ExitStack() as stack:
        stack.enter_context(closing(listener))
        for _ in range(clients):
            client = socket.create_connection(listener.getsockname(), timeout=5)
            stack.enter_context(closing(client))
            client.sendall(sends)
        yield listener


@contextmanager
def looping(
    clients: int, sends: bytes = b"", app: Any = None, **limits: Any
) -> Iterator[EventLoop]:
    """An event loop that has not turned yet, and clients that the kernel has connected to it."""
    with connected(clients, sends) as listener:
        loop = EventLoop(app or CountingApp(), listener, Limits(per_address=0, **limits))
        yield loop
        wasyncore.close_all(loop.polled)


def test_a_burst_of_connections_is_taken_in_one_turn():
    with looping(BURST) as loop:
        loop.turn(1.0)
        assert len(loop.active_channels) == BURST


def test_of_a_burst_no_more_are_taken_than_there_may_be():
    with looping(BURST, connections=10) as loop:
        loop.turn(1.0)
        assert 0 < len(loop.active_channels) <= 10


def test_of_a_connection_a_turn_reads_and_answers_one_request():
    app = CountingApp()
    with looping(3, SMALLEST * 300, app, answering=60.0) as loop:
        loop.turn(1.0)  # which accepts
        for turns in range(1, 11):
            loop.turn(1.0)
            assert list(app.answered.values()) == [turns] * 3


def test_a_turn_answers_no_longer_than_its_time_and_everybody_in_turn():
    app = CountingApp()
    with looping(5, SMALLEST * 300, app, answering=0.0) as loop:
        loop.turn(1.0)
        for turns in range(1, 11):
            loop.turn(1.0)
            assert app.answered.total() == turns
        assert list(app.answered.values()) == [2] * 5


def test_a_server_that_is_told_to_stop_answers_what_has_arrived_and_ends_its_connections():
    app = CountingApp()
    with connected(3, SMALLEST * 300) as listener:
        server = Server(app, listener)
        server.stop()
        server.run()
        assert list(app.answered.values()) == [300] * 3
        assert server.connections == 0


def test_draining_looks_at_the_clock_however_much_there_is_to_answer():
    app = CountingApp()
    with connected(3, SMALLEST * 300) as listener:
        server = Server(app, listener, Limits(drain=0.0))
        server.stop()
        server.run()
        assert app.answered.total() <= 3
        assert server.connections == 0


def test_when_room_is_short_the_answer_before_a_pipelined_request_is_the_last():
    app = CountingApp()
    with looping(3, SMALLEST * 300, app, connections=3) as loop:
        for _ in range(4):
            loop.turn(1.0)
        assert sorted(app.answered.values())[0] == 1
        assert len(loop.active_channels) == 2


def test_a_client_that_does_not_read_gets_no_further_answers():
    app = CountingApp(answer=b"x" * 256 * 1024)
    with looping(1, SMALLEST * 300, app) as loop:
        for _ in range(350):
            loop.turn(0.0)
        assert 0 < app.answered.total() < 200  # what the kernel takes is no more


def test_a_server_that_can_accept_nobody_any_more_ends():
    with connected(0) as listener:
        server = Server(CountingApp(), listener)
        listener.shutdown(socket.SHUT_RDWR)
        with pytest.raises(OSError, match="listening"):
            server.run()


MODULES = (waitress_channel, waitress_server)


def test_of_waitress_hardly_anything_is_overridden():
    overridden = {
        f"{base.__name__}.{name}"
        for module in MODULES
        for ours in vars(module).values()
        if isinstance(ours, type) and ours.__module__ == module.__name__
        for name, value in vars(ours).items()
        for base in ours.__mro__[1:]
        if base.__module__.startswith("waitress.") and callable(vars(base).get(name))
        if not name.startswith("__") and not isinstance(value, type)
    }
    assert overridden == {"BaseWSGIServer.pull_trigger"}


def test_no_private_name_of_waitress_is_used():
    private = {
        node.attr
        for module in MODULES
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Attribute)
        and re.match("_[a-z]", node.attr)
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    }
    assert private == set()
    names = {name for base in (HTTPChannel, TcpWSGIServer) for name in dir(base)}
    own = set(vars(EventLoop)) | set(vars(waitress_channel.Channel))
    assert not {name for name in own & names if re.match("_[a-z]", name)}

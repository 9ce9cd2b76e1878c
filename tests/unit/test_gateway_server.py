"""The gateway's event loop: who gets a connection, and when."""

import ast
import inspect
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import falcon
import pytest
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer

from gateway import waitress_server
from gateway.waitress_server import Server

BURST = 40


@contextmanager
def listening(clients: int) -> Iterator[Server]:
    """A server that has not run yet, and clients that the kernel has connected to it."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2 * BURST)
    listener.setblocking(False)
    with ExitStack() as stack:
        made = Server(falcon.App(), listener, per_address=0)
        stack.callback(made.close)
        for _ in range(clients):
            client = socket.create_connection(listener.getsockname(), timeout=5)
            stack.enter_context(closing(client))
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

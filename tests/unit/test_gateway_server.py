"""The gateway's event loop: who gets a connection, and when."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import falcon
import pytest

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

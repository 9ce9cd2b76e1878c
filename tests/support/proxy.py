"""A TCP proxy on loopback whose connections can be cut, and what a server says changed."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Change = Callable[[bytes], bytes]


class Proxy:
    """Forwards connections to a port of this machine.

    Attributes:
        port: where it listens.
    """

    def __init__(self, target: int, change: Change) -> None:
        self._target = target
        self._change = change
        self._ends: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut all connections; new ones are taken."""
        for end in tuple(self._ends):
            _close(end)

    def close(self) -> None:
        _close(self._listener)
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    _close(client)
                    continue
                self._ends |= {client, server}
                self._forward(client, server, bytes)
                self._forward(server, client, self._change)

    def _forward(self, source: socket.socket, sink: socket.socket, change: Change) -> None:
        def work() -> None:
            with suppress(OSError):
                while data := source.recv(1024 * 1024):
                    sink.sendall(change(data))
            for end in (source, sink):
                _close(end)
                self._ends.discard(end)

        threading.Thread(target=work, daemon=True).start()


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextmanager
def proxy(target: int, *, change: Change = bytes) -> Iterator[Proxy]:
    """Forward to a port; `change` is applied to each piece that the server sends."""
    running = Proxy(target, change)
    try:
        yield running
    finally:
        running.close()

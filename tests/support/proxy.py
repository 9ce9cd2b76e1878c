"""A TCP proxy on loopback: connections can be cut or stalled, and what the ends say changed."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Change = Callable[[bytes], bytes]

CONNECT_WITHIN = 1.0
"""Seconds for a connection to a target: one that is frozen may take no more."""

DRIP = 0.3
"""Seconds before each byte of a connection that drips."""


class Cut(OSError):
    """Raised by a `Change`: the connection is cut after the first bytes, `sent`, are forwarded."""

    def __init__(self, sent: bytes) -> None:
        super().__init__()
        self.sent = sent


class Proxy:
    """Forwards connections to ports of this machine, in turn; one that refuses is passed over.

    Attributes:
        port: where it listens.
    """

    def __init__(self, *targets: int, change: Change = bytes, change_sent: Change = bytes) -> None:
        self._targets = targets
        self._change = change
        self._change_sent = change_sent
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._flows = threading.Event()
        self._flows.set()
        self._drips = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def is_used(self) -> bool:
        """Return True if a connection is open."""
        return bool(self._pairs)

    def cut(self, *, single: bool = False) -> None:
        """Cut all connections, or the one that is open for the longest; new ones are taken."""
        for ends in tuple(self._pairs.items())[: 1 if single else None]:
            for end in ends:
                _close(end)

    def stall(self) -> None:
        """Forward nothing, and cut nothing, until `flow`."""
        self._flows.clear()

    def flow(self) -> None:
        self._flows.set()

    def drip(self) -> None:
        """Forward from now on what servers send byte by byte, each after a while."""
        self._drips = True

    def refuse(self) -> None:
        """Take no more connections, and leave those that are open."""
        _close(self._listener)

    def close(self) -> None:
        _close(self._listener)
        self.cut()
        self.flow()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = self._connect()
                if server is None:
                    _close(client)
                    continue
                self._pairs[client] = server
                self._forward(client, client, server, self._change_sent)
                self._forward(client, server, client, self._change)

    def _connect(self) -> socket.socket | None:
        for target in self._targets:
            with suppress(OSError):
                server = socket.create_connection(("127.0.0.1", target), CONNECT_WITHIN)
                server.settimeout(None)
                place = self._targets.index(target) + 1
                self._targets = self._targets[place:] + self._targets[:place]
                return server
        return None

    def _forward(
        self, client: socket.socket, source: socket.socket, sink: socket.socket, change: Change
    ) -> None:
        def work() -> None:
            with suppress(OSError):
                try:
                    while data := source.recv(1024 * 1024):
                        self._flows.wait()
                        if self._drips and sink is client:
                            _drip(sink, change(data))
                        else:
                            sink.sendall(change(data))
                except Cut as cut:
                    sink.sendall(cut.sent)
            for end in (source, sink):
                _close(end)
            self._pairs.pop(client, None)

        threading.Thread(target=work, daemon=True).start()


def _drip(sink: socket.socket, data: bytes) -> None:
    for byte in data:
        threading.Event().wait(DRIP)
        sink.sendall(bytes([byte]))


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextmanager
def proxy(*targets: int, change: Change = bytes, change_sent: Change = bytes) -> Iterator[Proxy]:
    """Forward to ports.

    `change` is applied to each piece that a server sends, `change_sent` to what a client does.
    """
    running = Proxy(*targets, change=change, change_sent=change_sent)
    try:
        yield running
    finally:
        running.close()

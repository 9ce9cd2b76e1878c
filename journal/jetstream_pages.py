"""Pages of a stream by Direct Get, over a socket that the calling thread reads.

nats-py takes several times as long for a message, and the fold would wait for that (ADR 26). The
protocol: docs.nats.io/reference/reference-protocols/nats-protocol. All else is done by nats-py.
"""

import json
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit
from uuid import uuid4

from nats.errors import Error as NatsError

from journal.entry import Entry
from journal.errors import Unavailable
from journal.jetstream_access import Access
from journal.jetstream_message import entry_of
from journal.port import READ_BYTES

BUFFER = 256 * 1024
"""Bytes that are read from the socket at once."""

MAX_LINE = 64 * 1024
"""Bytes of a line of the protocol, INFO included."""

ANSWER_WITHIN = 2.0
"""Seconds without a byte after which a server is given up."""


OPTIONS = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True}
"""Fields of CONNECT."""

_FAILURES = (OSError, ValueError, LookupError, NatsError)


_Message = tuple[dict[str, str], bytes]
"""Headers and body."""


class Pages:
    """Reads from one of the servers at a time. Not safe for use by several threads at once."""

    def __init__(self, access: Access, stream: str) -> None:
        self._access = access
        self._servers = deque(map(urlsplit, access.servers))
        self._subject = f"$JS.API.DIRECT.GET.{stream}"
        self._wire: _Wire | None = None

    def read(self, after: int, limit: int) -> list[Entry]:
        """Return entries after a revision, up to the first that did not arrive.

        Raises:
            Unavailable: no server answers, or not as it should.
        """
        problem = ""
        for _ in range(1 + len(self._servers)):  # the first one may have been started again
            try:
                wire = self._wire = self._wire or _Wire(self._access, self._servers[0])
                return self._page(wire, after, limit)
            except _FAILURES as error:
                problem = str(error) or type(error).__name__
                self.close()
                self._servers.rotate(-1)
        raise Unavailable(f"reading from NATS: {problem}")

    def close(self) -> None:
        """Close the connection. Another thread that reads from it gets an error."""
        wire, self._wire = self._wire, None
        if wire:
            wire.close()

    def _page(self, wire: "_Wire", after: int, limit: int) -> list[Entry]:
        request = {"seq": after + 1, "batch": limit, "max_bytes": READ_BYTES, "next_by_subj": ">"}
        entries: list[Entry] = []
        previous = 0
        for headers, body in wire.ask(self._subject, json.dumps(request).encode()):
            if int(headers["Nats-Last-Sequence"]) == previous:
                previous = int(headers["Nats-Sequence"])
                entries.append(entry_of(previous, headers["Nats-Subject"], headers, body))
        return entries


class _Wire:
    """A connection to a server, which is asked one question at a time."""

    def __init__(self, access: Access, server: SplitResult) -> None:
        self._inbox = f"_INBOX.{uuid4().hex}"
        host = server.hostname or ""
        self._socket = socket.create_connection((host, server.port or 4222), ANSWER_WITHIN)
        try:
            self._file = self._socket.makefile("rb", BUFFER)
            info = json.loads(self._line().removeprefix(b"INFO"))
            has_tls = bool(info.get("tls_required"))
            access.check_tls(used=has_tls)
            if has_tls:
                self._socket = access.tls().wrap_socket(self._socket, server_hostname=host)
                self._file = self._socket.makefile("rb", BUFFER)
            self._send(f"CONNECT {json.dumps({**OPTIONS, **access.sign_in(info)})}")
            self._send(f"SUB {self._inbox} 1")
        except BaseException:
            self.close()
            raise

    def ask(self, subject: str, request: bytes) -> Iterator[_Message]:
        """Yield the messages of an answer, without the one that ends it."""
        self._send(f"PUB {subject} {self._inbox} {len(request)}", request)
        while True:
            words = self._line().split()
            if words[0] == b"HMSG":
                message = self._message(int(words[-2]), int(words[-1]))
                if "Nats-Sequence" not in message[0]:  # 204, 404, or no responders
                    return
                yield message
            elif words[0] == b"PING":
                self._send("PONG")
            elif words[0] == b"-ERR":
                raise ValueError(b" ".join(words[1:]).decode(errors="replace"))

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _message(self, header_size: int, size: int) -> _Message:
        content = self._file.read(size + 2)
        if len(content) < size:
            raise ConnectionError("the connection was closed")
        lines = content[:header_size].decode(errors="replace").split("\r\n")
        headers = {name: value for name, _, value in [line.partition(": ") for line in lines]}
        return headers, content[header_size:size]

    def _line(self) -> bytes:
        line = self._file.readline(MAX_LINE)
        if not line.endswith(b"\n"):
            raise ConnectionError("the connection was closed")
        return line

    def _send(self, line: str, payload: bytes | None = None) -> None:
        end = b"" if payload is None else payload + b"\r\n"
        self._socket.sendall(line.encode() + b"\r\n" + end)

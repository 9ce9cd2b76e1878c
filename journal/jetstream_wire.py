"""A connection to NATS over a socket that the calling thread reads and writes itself.

The protocol: docs.nats.io/reference/reference-protocols/nats-protocol. Knows nothing of journals.
"""

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from io import BufferedReader, RawIOBase
from time import monotonic
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from nats.errors import Error as NatsError

from journal.jetstream_access import Access

BUFFER = 256 * 1024
"""Bytes that are read from the socket at once."""

MAX_LINE = 64 * 1024
"""Bytes of a line of the protocol, INFO included."""

MAX_MESSAGE = 65 * 1024 * 1024
"""Bytes of a message: those of the largest `max_payload`, and more headers of an answer."""

ANSWER_WITHIN = 2.0
"""Seconds without a byte after which a server is given up."""

SHORTEST = 0.001
"""Seconds that a wait takes at least: a timeout of 0 has another meaning."""

PAGE_WITHIN = 30.0
"""Seconds in which a page must have come to its end."""

OPTIONS = {
    "name": "desk",
    "verbose": False,
    "pedantic": False,
    "headers": True,
    "no_responders": True,
}
"""Fields of CONNECT."""

FAILURES = OSError, ValueError, LookupError, NatsError
"""Errors of a connection. After one it must not be used again."""

Message = tuple[dict[str, str], bytes]
"""Headers and body."""


class Wire:
    """A connection to one server, signed in.

    Attributes:
        server: its address.
        max_payload: bytes of headers and body that a message may have.
        end: monotonic time from which on sending and receiving fail with a `TimeoutError`.
    """

    def __init__(self, access: Access, server: str, within: float = ANSWER_WITHIN) -> None:
        """Connect, and sign in, within so many seconds.

        Raises:
            OSError, LookupError: that is not possible.
            ValueError: the server refuses, or its answer cannot be read.
            NatsError: it offers no TLS, and TLS is required.
        """
        self.server = server
        self.max_payload = 0
        self._inbox = f"_INBOX.{uuid4().hex}"
        self._unsent: list[bytes] = []
        self.end = monotonic() + within
        address = urlsplit(server)
        host = address.hostname or ""
        self._socket = socket.create_connection((host, address.port or 4222), self._left())
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._file = self._new_file()
            info = self._read_info(self._line())
            has_tls = bool(info.get("tls_required"))
            access.check_tls(used=has_tls)
            if has_tls:
                self._socket.settimeout(self._left())
                self._socket = access.tls().wrap_socket(self._socket, server_hostname=host)
                self._file = self._new_file()
            connect = json.dumps({**OPTIONS, **access.sign_in(info)})
            # In one piece: a server that refuses resets the connection if more comes, and then its
            # reason may be lost.
            self._send(f"CONNECT {connect}\r\nSUB {self._inbox}.* 1\r\nPING")
            while self._command() != [b"PONG"]:
                pass
        except BaseException:
            self.close()
            raise

    def ask(self, subject: str, request: bytes) -> Iterator[Message]:
        """Return the messages of an answer, without the one that ends it.

        The server sends them meanwhile. They must be read before the next question.
        """
        self.end = monotonic() + PAGE_WITHIN
        self._send(f"PUB {subject} {self._inbox}.page {len(request)}", request)
        return self._answer()

    def publish(self, subject: str, headers: str, body: bytes, token: str = "") -> None:
        """Add a message to those that `flush` sends.

        Args:
            subject: of the message.
            headers: from `header_block`.
            body: the payload.
            token: of its answer, as `receive` returns it; "": an answer is not wanted.
        """
        reply = f" {self._inbox}.{token}" if token else ""
        sizes = f"{len(headers)} {len(headers) + len(body)}"
        self._unsent += f"HPUB {subject}{reply} {sizes}\r\n{headers}".encode(), body, b"\r\n"

    def flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        self._send_bytes(b"".join(unsent))

    def receive(self, until: float) -> tuple[str, bytes] | None:
        """Return the token and the body of the next answer; None if none begins until a time."""
        while self._is_readable(until):
            words = self._command()
            if words[0] in (b"MSG", b"HMSG"):
                _, body = self._message(words)
                return words[1].rpartition(b".")[2].decode(), body
        return None

    def _answer(self) -> Iterator[Message]:
        self.end = monotonic() + PAGE_WITHIN  # it may have been asked for long ago
        while True:
            words = self._command()
            if words[0] == b"HMSG":
                message = self._message(words)
                if "Nats-Sequence" not in message[0]:  # 204, 404, or no responders
                    return
                yield message

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _new_file(self) -> BufferedReader:
        return BufferedReader(_Received(self._receive), BUFFER)

    def _is_readable(self, until: float) -> bool:
        """Wait for something to read, until a time, but not beyond `end`."""
        end, self.end = self.end, min(self.end, max(until, monotonic() + SHORTEST))
        try:
            self._file.peek()
        except TimeoutError:
            return False
        finally:
            self.end = end
        return True

    def _read_info(self, line: bytes) -> dict[str, Any]:
        info: dict[str, Any] = json.loads(line.removeprefix(b"INFO"))
        self.max_payload = int(info["max_payload"])
        return info

    def _command(self) -> list[bytes]:
        """Return the words of the next line. PING is answered.

        Raises:
            ValueError: the line is an error.
        """
        words = (line := self._line()).split()
        if words[0] == b"PING":
            self._send("PONG")
        elif words[0] == b"INFO":
            self._read_info(line)
        elif words[0] == b"-ERR":
            raise ValueError(b" ".join(words[1:]).decode(errors="replace"))
        return words

    def _message(self, words: list[bytes]) -> Message:
        """Read the message that a line announces."""
        header_size, size = int(words[-2]) if words[0] == b"HMSG" else 0, int(words[-1])
        if not 0 <= header_size <= size <= MAX_MESSAGE:
            raise ValueError("the server announces a message of an impossible size")
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
        self._send_bytes(line.encode() + b"\r\n" + end)

    def _send_bytes(self, content: bytes) -> None:
        left = memoryview(content)
        while left:  # `sendall` of a socket with TLS has a timeout for each part
            self._socket.settimeout(self._left())
            left = left[self._socket.send(left) :]

    def _receive(self, buffer: Any) -> int:
        self._socket.settimeout(self._left())
        return self._socket.recv_into(buffer)

    def _left(self) -> float:
        """Return the seconds that the next step of an exchange may take.

        Raises:
            TimeoutError: there are none.
        """
        left = self.end - monotonic()
        if left <= 0:
            raise TimeoutError("the exchange does not end")
        return min(ANSWER_WITHIN, left)


class _Received(RawIOBase):
    """The bytes of a socket. A file that Python makes of one refuses to read after a timeout."""

    def __init__(self, receive: Callable[[Any], int]) -> None:
        self._receive = receive

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        return self._receive(buffer)


def header_block(headers: Mapping[str, str]) -> str:
    """Return headers as a message has them. They must be ASCII."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return f"NATS/1.0\r\n{lines}\r\n"

"""Receives a request's body: bounded, and in chunks of one spelling only (RFC 9112, 7.1)."""

import re
from io import BytesIO

from gateway.head import InvalidHttp
from gateway.limits import MAX_BODY

DISCARD = 4 * 1024 * 1024
"""Bytes that are read of a body that is too large, so that its sender can read the answer."""

MAX_FRAMING = 16 * 1024
"""Bytes of a chunked body that are not its content."""

MAX_LINE = 16
"""Bytes of a line between chunks."""

_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})\r\n")


class Body:
    """The content of a body whose length is known.

    Attributes:
        completed: all of it has arrived.
    """

    def __init__(self, length: int) -> None:
        self.completed = length == 0
        self._data = bytearray()
        self._remaining = 0
        self._announced = 0
        self._expect(length)

    def __len__(self) -> int:
        """Return the bytes at hand: one more than `MAX_BODY` at most, which shows the excess."""
        return len(self._data)

    def received(self, data: bytes) -> int:
        """Take bytes; return how many of them belong to the body.

        Raises:
            InvalidHttp: the bytes are no body.
        """
        content = data[: self._remaining]
        self._data += content[: MAX_BODY + 1 - len(self._data)]
        self._remaining -= len(content)
        self.completed = self._remaining == 0
        return len(content)

    def file(self) -> BytesIO:
        """Return a file of the bytes at hand, and keep no copy of them."""
        content, self._data = bytes(self._data), bytearray()
        return BytesIO(content)

    def _expect(self, length: int) -> None:
        self._remaining = length
        self._announced += length
        if self._announced > DISCARD:
            raise InvalidHttp("the body is far too large", 413)


class ChunkedBody(Body):
    """A body in chunks. Refuses extensions, trailer fields, and lines that end in LF alone."""

    def __init__(self) -> None:
        super().__init__(0)
        self.completed = False
        self._line = b""
        self._take_line = self._take_size
        self._framing = 0

    def received(self, data: bytes) -> int:
        at = 0
        while at < len(data) and not self.completed:
            if self._remaining:
                at += super().received(data[at:])
                self.completed = False
            else:
                at += self._receive_line(data, at)
        return at

    def _receive_line(self, data: bytes, at: int) -> int:
        part = data[at : data.find(b"\n", at) + 1 or len(data)]
        self._framing += len(part)
        self._line += part
        if len(self._line) > MAX_LINE or self._framing > MAX_FRAMING:
            raise InvalidHttp("too much between chunks")
        if part.endswith(b"\n"):
            line, self._line = self._line, b""
            self._take_line(line)
        return len(part)

    def _take_size(self, line: bytes) -> None:
        size = _SIZE.fullmatch(line)
        if size is None:
            raise InvalidHttp("a line between chunks is not: hexadecimal size, CR LF")
        self._expect(int(size[1], 16))
        self._take_line = self._take_end if self._remaining else self._take_last

    def _take_end(self, line: bytes) -> None:
        if line != b"\r\n":
            raise InvalidHttp("a chunk is longer than its size")
        self._take_line = self._take_size

    def _take_last(self, line: bytes) -> None:
        if line != b"\r\n":
            raise InvalidHttp("trailer fields")
        self.completed = True

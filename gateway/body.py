"""Receives a request's body: bounded, and in chunks of one spelling only (RFC 9112, 7.1)."""

from io import BytesIO

from gateway.callbacks import MAX_BODY
from gateway.head import InvalidHttp

DISCARD = 4 * 1024 * 1024
"""Bytes that are read of a body that is too large, so that its sender can read the answer."""

MAX_FRAMING = 16 * 1024
"""Bytes of a chunked body that are not its content."""

MAX_LINE = 16
"""Bytes of a line between chunks."""

_SIZE = frozenset(b"0123456789abcdefABCDEF")
_MAX_DIGITS = 8


class Body:
    """The content of a body whose length is known.

    Attributes:
        completed: all of it has come.
    """

    def __init__(self, length: int) -> None:
        self.completed = length == 0
        self._data = bytearray()
        self._remaining = length
        if length > DISCARD:
            raise InvalidHttp("the body is far too large", 413)

    def __len__(self) -> int:
        """Return the bytes at hand: at most one more than a body may have, to tell that it has."""
        return len(self._data)

    def received(self, data: bytes) -> int:
        """Take bytes; return how many of them belong to the body.

        Raises:
            InvalidHttp: it is no body.
        """
        content = data[: self._remaining]
        self._data += content[: MAX_BODY + 1 - len(self._data)]
        self._remaining -= len(content)
        self.completed = self._remaining == 0
        return len(content)

    def file(self) -> BytesIO:
        """Return a file of the bytes at hand, and let go of them."""
        content, self._data = bytes(self._data), bytearray()  # else they would be kept twice
        return BytesIO(content)


class ChunkedBody(Body):
    """A body in chunks. Refuses extensions, trailer fields, and lines that end in LF alone."""

    def __init__(self) -> None:
        super().__init__(0)
        self.completed = False
        self._line = b""
        self._next = self._size
        self._content = 0
        self._framing = 0

    def received(self, data: bytes) -> int:
        """Take bytes, as `Body` does."""
        at = 0
        while at < len(data) and not self.completed:
            if self._remaining:
                at += super().received(data[at : at + self._remaining])
                self.completed = False
            else:
                at = self._take_line(data, at)
        return at

    def _take_line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at) + 1 or len(data)
        self._framing += end - at
        self._line += data[at:end]
        if len(self._line) > MAX_LINE or self._framing > MAX_FRAMING:
            raise InvalidHttp("too much between chunks")
        if self._line.endswith(b"\r\n"):
            line, self._line = self._line[:-2], b""
            self._next(line)
        elif self._line.endswith(b"\n"):
            raise InvalidHttp("a line between chunks ends in LF")
        return end

    def _size(self, line: bytes) -> None:
        if not 0 < len(line) <= _MAX_DIGITS or not _SIZE.issuperset(line):
            raise InvalidHttp("a chunk without a size, or with an extension")
        self._remaining = int(line, 16)
        self._content += self._remaining
        if self._content > DISCARD:
            raise InvalidHttp("the body is far too large", 413)
        self._next = self._end if self._remaining else self._last

    def _end(self, line: bytes) -> None:
        if line:
            raise InvalidHttp("a chunk is longer than its size")
        self._next = self._size

    def _last(self, line: bytes) -> None:
        if line:
            raise InvalidHttp("trailer fields")
        self.completed = True

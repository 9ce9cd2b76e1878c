"""Receives a request's body: bounded, and in chunks of one spelling only (RFC 9112, 7.1).

Both classes have the methods that waitress calls on its own buffers and receivers.
"""

from io import BytesIO
from typing import NamedTuple

from gateway.callbacks import MAX_BODY

MAX_FRAMING = 256 * 1024
"""Bytes of a chunked body that are not its content."""

MAX_LINE = 256
"""Bytes of a line between chunks."""

_SIZE = frozenset(b"0123456789abcdefABCDEF")
_MAX_DIGITS = 8
_EXTENSION = bytes(range(0x20, 0x7F)) + b"\t"


class Refusal(NamedTuple):
    """An error that waitress answers.

    Attributes:
        code: the HTTP status.
        reason: a constant sentence, for the log.
    """

    code: int
    reason: str


class Body:
    """The bytes of a body. One byte more than a body may have is kept, to tell that it was more."""

    def __init__(self) -> None:
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._data)

    def append(self, data: bytes) -> None:
        """Add bytes; those beyond the limit are dropped."""
        self._data += data[: MAX_BODY + 1 - len(self._data)]

    def getfile(self) -> BytesIO:
        """Return a file of the bytes."""
        return BytesIO(self._data)

    def close(self) -> None:
        """Free the bytes."""
        self._data.clear()


class ChunkedBody:
    """Receives a chunked body. Refuses trailer fields and lines that end otherwise than in CRLF.

    Attributes:
        completed: the last chunk has come.
        error: why the body is refused, or None.
    """

    def __init__(self) -> None:
        self.completed = False
        self.error: Refusal | None = None
        self._body = Body()
        self._line = b""
        self._next = self._size
        self._remaining = 0
        self._framing = 0

    def __len__(self) -> int:
        return len(self._body)

    def getfile(self) -> BytesIO:
        """Return a file of the content."""
        return self._body.getfile()

    def getbuf(self) -> Body:
        """Return the content."""
        return self._body

    def received(self, data: bytes) -> int:
        """Take bytes; return how many of them belong to the body."""
        at = 0
        while at < len(data) and not (self.completed or self.error):
            at = self._take_content(data, at) if self._remaining else self._take_line(data, at)
        return at

    def _take_content(self, data: bytes, at: int) -> int:
        content = data[at : at + self._remaining]
        self._body.append(content)
        self._remaining -= len(content)
        return at + len(content)

    def _take_line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at) + 1 or len(data)
        self._framing += end - at
        self._line += data[at:end]
        if len(self._line) > MAX_LINE or self._framing > MAX_FRAMING:
            self._refuse("too much between chunks")
        elif self._line.endswith(b"\r\n"):
            line, self._line = self._line[:-2], b""
            self._next(line)
        elif self._line.endswith(b"\n"):
            self._refuse("a line between chunks ends in LF")
        return end

    def _size(self, line: bytes) -> None:
        size, _, extension = line.partition(b";")
        if not 0 < len(size) <= _MAX_DIGITS or not _SIZE.issuperset(size):
            self._refuse("a chunk without a size")
        elif extension.translate(None, _EXTENSION):
            self._refuse("a control character in a chunk extension")
        else:
            self._remaining = int(size, 16)
            self._next = self._end if self._remaining else self._trailer

    def _end(self, line: bytes) -> None:
        self._next = self._size
        if line:
            self._refuse("a chunk is longer than its size")

    def _trailer(self, line: bytes) -> None:
        self.completed = not line
        if line:
            self._refuse("trailer fields")

    def _refuse(self, reason: str) -> None:
        self.error = Refusal(400, reason)

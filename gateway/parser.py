"""Reads requests from a connection's bytes, for waitress and without any of waitress's reading.

Refuses what is ambiguous, and bounds what it keeps. Knows nothing of sockets.
"""

from io import BytesIO
from time import monotonic
from typing import cast
from urllib.parse import unquote_to_bytes

from gateway.body import Body, ChunkedBody
from gateway.callbacks import MAX_BODY
from gateway.head import END, MAX_HEAD, Head, InvalidHttp, parse_head


class Parser:
    """Reads one request. Has what waitress asks of a parser, and none of waitress's reading.

    Attributes:
        begun: when its first byte came, `time.monotonic`.
        arrived: when its last byte came.
        rest: what came behind it. It is for the next request, once this one is answered.
        error: why it is refused, or None.
    """

    begun = arrived = 0.0
    rest = b""
    completed = empty = expect_continue = headers_finished = False
    error: InvalidHttp | None = None
    command = path = query = request_uri = ""
    version = "1.0"
    url_scheme = "http"
    body: Body | None = None

    def __init__(self, _settings: object) -> None:
        self.headers: dict[str, str] = {}
        self._head = b""
        self._forgiven = False

    def received(self, data: bytes) -> int:
        """Take bytes, all of them: else waitress would read one request after the other."""
        size = len(data)
        try:
            while data and not self.completed:
                self.begun = self.begun or monotonic()
                data = data[self._take_head(data) if self.body is None else self._take_body(data) :]
            self.rest = data
        except InvalidHttp as refusal:
            self._refuse(refusal)
        except Exception as error:  # a bug; its message may quote the request
            self._refuse(InvalidHttp(f"the parser raised {type(error).__name__}"))
        if self.completed:
            self.expect_continue = False  # else waitress asks for more
            self.arrived = monotonic()
        return size

    def get_body_stream(self) -> BytesIO:
        """Return a file of the body."""
        return BytesIO() if self.body is None else self.body.file()

    def close(self) -> None:
        """Free the body."""
        self.body = None

    def _take_head(self, data: bytes) -> int:
        before = len(self._head)
        head = self._head + data
        if head.startswith(b"\r\n") and not self._forgiven:  # RFC 9112, 2.2: one empty line
            self._forgiven, self._head, self.begun = True, b"", 0.0
            return 2 - before
        end = head.find(END, max(0, before - len(END))) + len(END)
        complete = end >= len(END)
        if (end if complete else len(head)) > MAX_HEAD:
            raise InvalidHttp("the head is too large", 431)
        if not complete:
            self._head = head
            return len(data)
        self._use(parse_head(head[:end]))
        return end - before

    def _take_body(self, data: bytes) -> int:
        body = cast(Body, self.body)
        consumed = body.received(data)
        self.completed = body.completed
        if self.completed:
            self.headers["CONTENT_LENGTH"] = str(len(body))
        return consumed

    def _use(self, head: Head) -> None:
        self._head = b""
        self.headers_finished = True
        self.command, self.request_uri, self.version, self.headers = head
        path, _, self.query = head.target.partition("?")
        self.path = unquote_to_bytes(path).decode("latin-1")  # as WSGI has it
        self._expect_body(head)

    def _expect_body(self, head: Head) -> None:
        length = int(head.headers.get("CONTENT_LENGTH", 0))
        if self.headers.pop("TRANSFER_ENCODING", None):
            self.body = ChunkedBody()
        elif length:
            self.body = Body(length)
        self.completed = self.body is None
        self.expect_continue = (
            self.version == "1.1" and head.headers.get("EXPECT", "").lower() == "100-continue"
        )
        if self.expect_continue and length > MAX_BODY:
            raise InvalidHttp("the body would be too large", 413)

    def _refuse(self, refusal: InvalidHttp) -> None:
        self.error = refusal
        self.completed = True


class Discarding:
    """Reads and drops what comes behind a refused request."""

    completed = expect_continue = headers_finished = False
    begun = 0.0
    body = None

    def __init__(self, _settings: object) -> None:
        pass

    def received(self, data: bytes) -> int:
        """Take bytes."""
        return len(data)

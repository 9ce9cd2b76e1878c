"""Reads requests from a connection's bytes, in place of waitress's parser.

Refuses ambiguous requests, and bounds what it keeps. Knows nothing of sockets.
"""

from io import BytesIO
from time import monotonic
from urllib.parse import unquote_to_bytes

from gateway.body import Body, ChunkedBody
from gateway.head import END, InvalidHttp, parse_head
from gateway.limits import MAX_BODY, MAX_HEAD


class Parser:
    """A parser of one request, with the interface that waitress expects of a parser.

    Attributes:
        begun: time of the first byte, `time.monotonic`.
        arrived: time of the last byte.
        rest: bytes behind the request. They are for the next one, once this one is answered.
        error: why the request is refused, or None.
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
        self._skipped_line = False

    def received(self, data: bytes) -> int:
        """Take all bytes: waitress would parse a remainder as the next request at once."""
        size = len(data)
        try:
            while data and not self.completed:
                self.begun = self.begun or monotonic()
                body = self.body
                taken = self._take_head(data) if body is None else self._take_body(body, data)
                data = data[taken:]
            self.rest = data
        except InvalidHttp as refusal:
            self.error = refusal
        except Exception as error:  # a bug; its message may quote the request
            self.error = InvalidHttp(f"the parser raised {type(error).__name__}")
        self.completed = self.completed or self.error is not None
        if self.completed:
            self.expect_continue = False  # else waitress asks for more
            self.arrived = monotonic()
        return size

    def get_body_stream(self) -> BytesIO:
        return BytesIO() if self.body is None else self.body.file()

    def close(self) -> None:
        self.body = None

    def _take_head(self, data: bytes) -> int:
        before = len(self._head)
        head = self._head + data
        if head.startswith(b"\r\n") and not self._skipped_line:  # RFC 9112, 2.2: one empty line
            self._skipped_line, self._head, self.begun = True, b"", 0.0
            return 2 - before
        head, end, _ = head.partition(END)
        head += end
        if len(head) > MAX_HEAD:
            raise InvalidHttp("the head is too large", 431)
        if not end:
            self._head = head
            return len(data)
        self._head = b""
        self._use_head(head)
        return len(head) - before

    def _take_body(self, body: Body, data: bytes) -> int:
        taken = body.received(data)
        self.completed = body.completed
        if self.completed:
            self.headers["CONTENT_LENGTH"] = str(len(body))
        return taken

    def _use_head(self, data: bytes) -> None:
        self.command, self.request_uri, self.version, self.headers = parse_head(data)
        self.headers_finished = True
        path, _, self.query = self.request_uri.partition("?")
        self.path = unquote_to_bytes(path).decode("latin-1")  # the form that WSGI requires
        length = int(self.headers.get("CONTENT_LENGTH", 0))
        if self.headers.pop("TRANSFER_ENCODING", None):
            self.body = ChunkedBody()
        elif length:
            self.body = Body(length)
        self.completed = self.body is None
        expectation = self.headers.get("EXPECT", "").lower()
        self.expect_continue = self.version == "1.1" and expectation == "100-continue"
        if self.expect_continue and length > MAX_BODY:
            raise InvalidHttp("the body would be too large", 413)


class Discarding(Parser):
    """A parser that drops all bytes: those behind a refused request."""

    def received(self, data: bytes) -> int:
        return len(data)

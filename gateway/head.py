"""Parses a request's head, and refuses one that two readers could understand differently.

Sources: RFC 9110, RFC 9112. Stricter than both: one spelling where they allow several. Pure, and
linear in time: a parser with expressions that backtrack can be kept busy for seconds by 16 KiB.
"""

import re
from typing import NamedTuple

MAX_HEAD = 16 * 1024
"""Bytes of a head."""

MAX_LINES = 128
"""Lines of a head."""

END = b"\r\n\r\n"

# Possessive quantifiers (++, *+) never go back, so that no input takes more than linear time.
_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"

# A method is case-sensitive, and WSGI servers write it in capitals: one in small letters is none.
_METHOD = r"[!#$%&'*+\-.^_`|~0-9A-Z]++"

# A target may have no fragment: some readers would cut it off, and some would not.
_REQUEST_LINE = re.compile(rf'({_METHOD}) (/[!"$-~]*+) HTTP/(1\.[01])\r\n')
_FIELDS = re.compile(rf"(?:{_NAME}:[\t -~\x80-\xff]*+\r\n)*+\r\n")
_FIELD = re.compile(rf"({_NAME}):[ \t]*+([^\r]*+)\r\n")
_HOST = re.compile(r"[-._~%!$&'()*+;=:\[\]0-9A-Za-z]*+")
_LENGTH = re.compile(r"[0-9]{1,19}+")
_CODINGS = re.compile(rf"{_NAME}(?:[ \t]*+,[ \t]*+{_NAME})*+")

_ONCE = frozenset({"HOST", "CONTENT_LENGTH", "TRANSFER_ENCODING"})
_NEEDED = frozenset({"host", "content-length", "transfer-encoding"})


class InvalidHttp(Exception):
    """The bytes are no request that the gateway serves.

    Attributes:
        code: the HTTP status.
        reason: a constant sentence, for the log.
    """

    def __init__(self, reason: str, code: int = 400) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Head(NamedTuple):
    """A request's head.

    Attributes:
        method: as it came.
        target: begins with a slash.
        version: "1.0" or "1.1".
        headers: by name as in WSGI, without `HTTP_`; values of one name are joined by commas. A
            name with an underscore is left out: in WSGI it would equal one with a hyphen.
    """

    method: str
    target: str
    version: str
    headers: dict[str, str]


def parse_head(data: bytes) -> Head:
    """Return the head in `data`, which goes from the method to the empty line, both included.

    Raises:
        InvalidHttp: it has more than one meaning, or none that the gateway serves.
    """
    text = data.decode("latin-1")
    line = _REQUEST_LINE.match(text)
    if line is None:
        raise InvalidHttp("the request line is not: method, path, HTTP/1.0 or HTTP/1.1")
    if text.count("\n") > MAX_LINES:
        raise InvalidHttp("too many header fields", 431)
    if not _FIELDS.fullmatch(text, line.end()):
        raise InvalidHttp("a header field is not: token, colon, text without control characters")
    head = Head(line[1], line[2], line[3], _headers(text, line.end()))
    _check_host(head)
    _check_framing(head)
    _settle_connection(head.headers)
    return head


def _headers(text: str, start: int) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in _FIELD.findall(text, start):
        if "_" in name:
            continue
        key = name.upper().replace("-", "_")
        value = value.rstrip(" \t")
        if key in headers:
            if key in _ONCE:
                raise InvalidHttp("Host, Content-Length or Transfer-Encoding more than once")
            value = f"{headers[key]}, {value}"
        headers[key] = value
    return headers


def _check_host(head: Head) -> None:
    host = head.headers.get("HOST")
    if host is None and head.version == "1.1":
        raise InvalidHttp("no Host")
    if host and not _HOST.fullmatch(host):
        raise InvalidHttp("Host is no host")


def _check_framing(head: Head) -> None:
    length = head.headers.get("CONTENT_LENGTH")
    if length is not None and not _LENGTH.fullmatch(length):
        raise InvalidHttp("Content-Length is no number of at most 19 digits")
    coding = head.headers.get("TRANSFER_ENCODING")
    if coding is None:
        return
    if length is not None or head.version != "1.1":
        raise InvalidHttp("ambiguous length of the body")
    if coding.lower() != "chunked":
        if _CODINGS.fullmatch(coding) and coding.lower().count("chunked") < 2:
            raise InvalidHttp("a transfer coding other than chunked", 501)
        raise InvalidHttp("ambiguous length of the body")


def _settle_connection(headers: dict[str, str]) -> None:
    """Leave one word in `Connection`, which may list several."""
    if "CONNECTION" not in headers:
        return
    options = {option.strip(" \t") for option in headers["CONNECTION"].lower().split(",")}
    if options & _NEEDED:  # a proxy would remove them (RFC 9110, 7.6.1)
        raise InvalidHttp("Connection names a field that every reader needs")
    said = options & {"close", "keep-alive"}
    if len(said) > 1:
        raise InvalidHttp("Connection says close and keep-alive")
    headers["CONNECTION"] = said.pop() if said else ""

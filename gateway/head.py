"""Parses a request's head, and refuses one that two readers could understand differently.

Sources: RFC 9110, RFC 9112. Stricter than both: one spelling where they allow several. Pure, and
linear in time: 16 KiB can keep a parser busy for seconds if its expressions backtrack.
"""

import re
from typing import NamedTuple

MAX_LINES = 128
"""Lines of a head."""

END = b"\r\n\r\n"

# Possessive quantifiers (++, *+) never backtrack: no input takes more than linear time.
_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"

# A method is case-sensitive, and WSGI servers write it in capitals: small letters are refused.
_METHOD = r"[!#$%&'*+\-.^_`|~0-9A-Z]++"

# No fragment in a target: some readers cut it off, and some do not.
_REQUEST_LINE = re.compile(rf'({_METHOD}) (/[!"$-~]*+) HTTP/(1\.[01])\r\n')
_FIELDS = re.compile(rf"(?:{_NAME}:[\t -~\x80-\xff]*+\r\n)*+\r\n")
_FIELD = re.compile(rf"({_NAME}):[ \t]*+([^\r]*+)\r\n")
_HOST = re.compile(r"[-._~%!$&'()*+;=:\[\]0-9A-Za-z]*+")
_LENGTH = re.compile(r"[0-9]{1,19}+")
_CODINGS = re.compile(rf"{_NAME}(?:[ \t]*+,[ \t]*+{_NAME})*+")

_ONCE = frozenset({"HOST", "CONTENT_LENGTH", "TRANSFER_ENCODING"})
_NEEDED = frozenset({"host", "content-length", "transfer-encoding"})


class InvalidHttp(Exception):
    """An error for bytes that are no request, or one that the gateway does not serve.

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
        method: as received.
        target: path and query; begins with a slash.
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
        InvalidHttp: the head is invalid, ambiguous, or not served.
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
    _reduce_connection(head.headers)
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
        raise InvalidHttp("Host is missing")
    if host and not _HOST.fullmatch(host):
        raise InvalidHttp("Host is not a host")


def _check_framing(head: Head) -> None:
    length = head.headers.get("CONTENT_LENGTH")
    if length is not None and not _LENGTH.fullmatch(length):
        raise InvalidHttp("Content-Length is not a number of at most 19 digits")
    coding = head.headers.get("TRANSFER_ENCODING")
    if coding is None:
        return
    if length is not None or head.version != "1.1":
        raise InvalidHttp("ambiguous length of the body")
    if coding.lower() != "chunked":
        if _CODINGS.fullmatch(coding) and coding.lower().count("chunked") < 2:
            raise InvalidHttp("a transfer coding other than chunked", 501)
        raise InvalidHttp("ambiguous length of the body")


def _reduce_connection(headers: dict[str, str]) -> None:
    """Leave `close`, `keep-alive` or nothing in `Connection`, which may list several options."""
    if "CONNECTION" not in headers:
        return
    options = {option.strip(" \t") for option in headers["CONNECTION"].lower().split(",")}
    if options & _NEEDED:  # a proxy would remove them (RFC 9110, 7.6.1)
        raise InvalidHttp("Connection names a field that every reader needs")
    if options >= {"close", "keep-alive"}:
        raise InvalidHttp("Connection has both close and keep-alive")
    headers["CONNECTION"] = "".join(options & {"close", "keep-alive"})

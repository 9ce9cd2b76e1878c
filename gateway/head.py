"""Refuses a request's head that two readers could understand differently. Pure, linear in time.

Sources: RFC 9110, RFC 9112. Stricter than both: one spelling where they allow several. It runs
before waitress parses the head, whose regular expressions take quadratic time on some of what is
refused here.
"""

from string import ascii_letters, digits

MAX_HEAD = 16 * 1024
"""Bytes of a head."""

MAX_LINES = 128
"""Lines of a head."""

END = b"\r\n\r\n"

_TOKEN = f"!#$%&'*+-.^_`|~{digits}{ascii_letters}".encode()
_VISIBLE = bytes(range(0x21, 0x7F))
_TEXT = _VISIBLE + b" \t" + bytes(range(0x80, 0x100))
_HOST = f"-._~%!$&'()*+;=:[]{digits}{ascii_letters}".encode()
_MAX_DIGITS = 19


class BadHead(Exception):
    """The head is refused.

    Attributes:
        code: the HTTP status.
        reason: a constant sentence, for the log.
    """

    def __init__(self, reason: str, code: int = 400) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def check_head(head: bytes) -> None:
    """Return if a head has one meaning.

    Args:
        head: from the method to the empty line, both included.

    Raises:
        BadHead: it has not, or is not one that the gateway serves.
    """
    lines = head.removesuffix(END).split(b"\r\n")
    if len(lines) > MAX_LINES:
        raise BadHead("too many header fields", 431)
    version = _version(lines[0])
    fields: dict[bytes, list[bytes]] = {}
    for line in lines[1:]:
        name, value = _field(line)
        fields.setdefault(name, []).append(value)
    _check_host(fields.get(b"host", []), version)
    _check_framing(fields, version)
    connection = b",".join(fields.get(b"connection", [])).lower().split(b",")
    if {b"close", b"keep-alive"} <= {option.strip(b" \t") for option in connection}:
        raise BadHead("Connection says close and keep-alive")


def _version(line: bytes) -> bytes:
    """Return the version in a request line, after a look at the rest of it."""
    method, _, rest = line.partition(b" ")
    target, _, version = rest.partition(b" ")
    if not _consists_of(method, _TOKEN):
        raise BadHead("the method is no token")
    # A fragment is not part of a request's target: some would cut it off, and some would not.
    if not target.startswith(b"/") or b"#" in target or not _consists_of(target, _VISIBLE):
        raise BadHead("the target is no path")
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadHead("the version is neither HTTP/1.0 nor HTTP/1.1")
    return version


def _field(line: bytes) -> tuple[bytes, bytes]:
    """Return the name, in lower case, and the value of a header field."""
    name, colon, value = line.partition(b":")
    if not colon or not _consists_of(name, _TOKEN):
        raise BadHead("a header field has no name")
    if value.translate(None, _TEXT):
        raise BadHead("a control character in a header field")
    return name.lower(), value.strip(b" \t")


def _check_host(hosts: list[bytes], version: bytes) -> None:
    if len(hosts) > 1 or (not hosts and version == b"HTTP/1.1"):
        raise BadHead("not exactly one Host")
    if hosts and hosts[0].translate(None, _HOST):
        raise BadHead("Host is no host")


def _check_framing(fields: dict[bytes, list[bytes]], version: bytes) -> None:
    lengths = fields.get(b"content-length", [])
    if lengths and not _is_length(*lengths):
        raise BadHead("Content-Length is not one number")
    codings = fields.get(b"transfer-encoding")
    if codings is None:
        return
    if lengths or version != b"HTTP/1.1" or len(codings) > 1:
        raise BadHead("ambiguous length of the body")
    if codings[0].lower() != b"chunked":
        raise _bad_coding([coding.strip(b" \t") for coding in codings[0].lower().split(b",")])


def _bad_coding(codings: list[bytes]) -> BadHead:
    if all(_consists_of(coding, _TOKEN) for coding in codings) and codings.count(b"chunked") < 2:
        return BadHead("a transfer coding other than chunked", 501)
    return BadHead("ambiguous length of the body")


def _is_length(value: bytes, *more: bytes) -> bool:
    return not more and len(value) <= _MAX_DIGITS and _consists_of(value, digits.encode())


def _consists_of(text: bytes, characters: bytes) -> bool:
    return bool(text) and not text.translate(None, characters)

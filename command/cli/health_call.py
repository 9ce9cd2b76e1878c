"""One call of grpc.health.v1 in clear text, without gRPC, whose import is too slow for a probe.

Sources: RFC 9113 (HTTP/2), RFC 7541 (HPACK), the gRPC protocol over HTTP/2.
"""

import socket
import struct
from collections.abc import Iterator
from time import monotonic

from command.address import Address

SERVING = b"\x08\x01"
"""A HealthCheckResponse with the status SERVING."""

MAX_FRAME = 16 * 1024
"""Bytes of a frame; HTTP/2's own limit, unless one side allows more."""

_DATA, _HEADERS, _SETTINGS, _PING = 0, 1, 4, 6
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_NO_MESSAGE = b"\x00\x00\x00\x00\x00"  # not compressed, no bytes: an empty HealthCheckRequest
_STREAM = 1


def is_serving(address: Address, timeout: float) -> bool:
    """Return True if the service as a whole is serving.

    Raises:
        OSError: it cannot be reached, does not answer in time, or not with a status.
    """
    end = monotonic() + timeout
    with socket.create_connection(address, timeout=timeout) as connection:
        connection.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, b"")
            + _frame(_HEADERS, _END_HEADERS, _STREAM, _headers(str(address)))
            + _frame(_DATA, _END_STREAM, _STREAM, _NO_MESSAGE)
        )
        for kind, flags, stream, content in _frames(connection, end):
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                answer = content if kind == _PING else b""
                connection.sendall(_frame(kind, _ACK, 0, answer))
            elif stream == _STREAM and kind == _DATA and content:
                return content[len(_NO_MESSAGE) :] == SERVING
            elif stream == _STREAM and flags & _END_STREAM:
                break
    raise OSError("the answer has no status; if it uses TLS, pass --tls-ca")


def _headers(authority: str) -> bytes:
    """Encode the request's header, each field without a table and without compression."""
    return b"".join(
        (
            b"\x83\x86",  # :method POST, :scheme http
            b"\x01" + _text(authority),
            b"\x04" + _text("/grpc.health.v1.Health/Check"),  # :path
            b"\x0f\x10" + _text("application/grpc"),  # content-type
            b"\x00" + _text("te") + _text("trailers"),
        )
    )


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode("ascii")  # less than 127 bytes


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def _frames(connection: socket.socket, end: float) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield kind, flags, stream and content of each frame until the connection is closed."""
    data = b""
    while True:
        while len(data) >= 9 and len(data) >= 9 + (size := int.from_bytes(data[:3])):
            kind, flags, stream = struct.unpack(">BBI", data[3:9])
            yield kind, flags, stream & 0x7FFFFFFF, data[9 : 9 + size]
            data = data[9 + size :]
        if (left := end - monotonic()) <= 0:
            raise TimeoutError("timed out")
        connection.settimeout(left)
        packet = connection.recv(MAX_FRAME)
        if not packet or len(data) > 2 * MAX_FRAME:
            return
        data += packet

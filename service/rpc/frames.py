"""Responses as the wire has them, put together from records that are stored serialised.

Building a protobuf object per record would cost more than everything else on a stream together. The
field numbers are those of proto/desk/v1; a test compares with what protobuf makes of them.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.message import Message

from desk.v1.event_service_pb2 import (
    CaughtUp,
    Checkpoint,
    FellBehind,
    ListRejectionsResponse,
    SubscribeResponse,
)
from desk.v1.session_pb2 import SessionKey
from desk.v1.session_service_pb2 import BatchGetSessionsResponse, ListSessionsResponse
from desk.v1.status_pb2 import ResponseHeader

_LENGTH_DELIMITED = 2


def _tag(number: int) -> bytes:
    return bytes((number << 3 | _LENGTH_DELIMITED,))


_HEADER = _tag(1)  # the header of every response
_ANSWER = _tag(2)  # what every unary response has after it: session, sessions or records
_RECORDS = _tag(SubscribeResponse.RECORDS_FIELD_NUMBER)
_SESSIONS = _tag(SubscribeResponse.SESSIONS_FIELD_NUMBER)
_RECORD = _tag(1)  # RecordBatch.records
_COMPLETE = b"\x10\x01"  # SessionBatch.complete = true
_SESSION_OF_RECORD = _tag(12)  # SessionRecord.session, the last field of all


def varint(number: int) -> bytes:
    """A non-negative number as protobuf writes it."""
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    return bytes((number & 0x7F | 0x80,)) + varint(number >> 7)


def repeated(number: int, messages: Iterable[bytes]) -> bytes:
    """A repeated message field, from its elements as serialised."""
    tag = _tag(number)
    parts: list[bytes] = []
    for message in messages:
        parts += (tag, varint(len(message)), message)
    return b"".join(parts)


def records(header: ResponseHeader, rows: Iterable[Sequence[Any]], *, with_session: bool) -> bytes:
    """A SubscribeResponse of feed rows: (position, record[, session, …])."""
    parts: list[bytes] = []
    for row in rows:
        record = row[1]
        if with_session and row[2] is not None:
            session = row[2]
            record = b"".join((record, _SESSION_OF_RECORD, varint(len(session)), session))
        parts += (_RECORD, varint(len(record)), record)
    return _response(header, _RECORDS, b"".join(parts))


def sessions(header: ResponseHeader, blobs: Iterable[bytes], *, complete: bool) -> bytes:
    """A SubscribeResponse of serialised sessions."""
    return _response(header, _SESSIONS, repeated(1, blobs) + (_COMPLETE if complete else b""))


def session(header: ResponseHeader, blob: bytes) -> bytes:
    """A GetSessionResponse of a serialised session."""
    return _response(header, _ANSWER, blob)


def batch(header: ResponseHeader, blobs: Iterable[bytes], missing: Iterable[SessionKey]) -> bytes:
    """A BatchGetSessionsResponse of serialised sessions."""
    return _answer(header, blobs, BatchGetSessionsResponse(missing=missing))


def page(header: ResponseHeader, blobs: Iterable[bytes], next_page_token: str) -> bytes:
    """A ListSessionsResponse of serialised sessions."""
    return _answer(header, blobs, ListSessionsResponse(next_page_token=next_page_token))


def rejections(header: ResponseHeader, blobs: Iterable[bytes], next_page_token: str) -> bytes:
    """A ListRejectionsResponse of serialised records."""
    return _answer(header, blobs, ListRejectionsResponse(next_page_token=next_page_token))


def caught_up(header: ResponseHeader) -> bytes:
    """The stream has reached the present."""
    return SubscribeResponse(header=header, caught_up=CaughtUp()).SerializeToString()


def checkpoint(header: ResponseHeader) -> bytes:
    """A place to resume from."""
    return SubscribeResponse(header=header, checkpoint=Checkpoint()).SerializeToString()


def fell_behind(header: ResponseHeader) -> bytes:
    """The stream is served from the view again."""
    return SubscribeResponse(header=header, fell_behind=FellBehind()).SerializeToString()


def _response(header: ResponseHeader, tag: bytes, content: bytes) -> bytes:
    head = header.SerializeToString()
    return b"".join((_HEADER, varint(len(head)), head, tag, varint(len(content)), content))


def _answer(header: ResponseHeader, blobs: Iterable[bytes], rest: Message) -> bytes:
    """A response with a repeated message field; `rest` has what comes after that."""
    return (
        repeated(1, (header.SerializeToString(),)) + repeated(2, blobs) + rest.SerializeToString()
    )

"""Responses as the wire has them, put together from records that are stored serialised.

Building a protobuf object per record would cost more than everything else on a stream together. The
field numbers are those of proto/desk/v1; a test compares with what protobuf makes of them.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from operator import itemgetter
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
from service.wire import LENGTH_DELIMITED, tag, varint

MAX_PREFIXES = 4_096
"""Lengths of a field for which what precedes it is kept."""

_tag = partial(tag, wire_type=LENGTH_DELIMITED)
_HEADER = _tag(1)  # the header of every response
_RECORDS = _tag(SubscribeResponse.RECORDS_FIELD_NUMBER)
_SESSIONS = _tag(SubscribeResponse.SESSIONS_FIELD_NUMBER)
_COMPLETE = b"\x10\x01"  # SessionBatch.complete = true


class _Prefixes(dict[int, bytes]):
    """What precedes a field's value, by its length; most are of a few hundred lengths."""

    def __init__(self, head: bytes) -> None:
        self._head = head

    def __missing__(self, length: int) -> bytes:
        prefix = self._head + varint(length)
        if len(self) < MAX_PREFIXES:
            self[length] = prefix
        return prefix


_OF_ELEMENT = _Prefixes(_tag(1))  # RecordBatch.records, SessionBatch.sessions
_OF_ANSWER = _Prefixes(_tag(2))  # what unary responses have first: session, sessions, records
_OF_SESSION = _Prefixes(_tag(12))  # SessionRecord.session, the last field of all


def records(header: ResponseHeader, rows: Iterable[Sequence[Any]], *, with_session: bool) -> bytes:
    """A SubscribeResponse of feed rows: (position, record[, session, …])."""
    whole = list(map(_with_session if with_session else itemgetter(1), rows))
    return _response(header, _RECORDS, _repeated(_OF_ELEMENT, whole))


def _with_session(row: Sequence[Any]) -> bytes:
    record: bytes
    session: bytes | None
    _, record, session, *_ = row
    if session is None:
        return record
    return b"".join((record, _OF_SESSION[len(session)], session))


def sessions(header: ResponseHeader, blobs: Sequence[bytes], *, complete: bool) -> bytes:
    """A SubscribeResponse of serialised sessions."""
    end = [_COMPLETE] if complete else []
    return _response(header, _SESSIONS, _repeated(_OF_ELEMENT, blobs) + end)


def session(header: ResponseHeader, blob: bytes) -> bytes:
    """A GetSessionResponse of a serialised session."""
    return b"".join((*_head(header), _OF_ANSWER[len(blob)], blob))


def batch(header: ResponseHeader, blobs: Sequence[bytes], missing: Iterable[SessionKey]) -> bytes:
    """A BatchGetSessionsResponse of serialised sessions."""
    return _answer(header, blobs, BatchGetSessionsResponse(missing=missing))


def page(header: ResponseHeader, blobs: Sequence[bytes], next_page_token: str) -> bytes:
    """A ListSessionsResponse of serialised sessions."""
    return _answer(header, blobs, ListSessionsResponse(next_page_token=next_page_token))


def rejections(header: ResponseHeader, blobs: Sequence[bytes], next_page_token: str) -> bytes:
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


def _repeated(prefixes: _Prefixes, messages: Sequence[bytes]) -> list[bytes]:
    """A repeated message field, in parts, from its elements as serialised."""
    parts = [b""] * (2 * len(messages))
    parts[::2] = map(prefixes.__getitem__, map(len, messages))
    parts[1::2] = messages
    return parts


def _response(header: ResponseHeader, head: bytes, content: Sequence[bytes]) -> bytes:
    """A header and one message field; joined once, for this may be a megabyte."""
    return b"".join((*_head(header), head, varint(sum(map(len, content))), *content))


def _answer(header: ResponseHeader, blobs: Sequence[bytes], rest: Message) -> bytes:
    """A header and a repeated message field; `rest` has what comes after that."""
    return b"".join((*_head(header), *_repeated(_OF_ANSWER, blobs), rest.SerializeToString()))


def _head(header: ResponseHeader) -> tuple[bytes, bytes]:
    head = header.SerializeToString()
    return _HEADER + varint(len(head)), head

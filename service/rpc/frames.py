"""Responses as the wire has them, put together from records that are stored serialised.

Building a protobuf object per record would cost more than everything else on a stream together. The
field numbers are those of the messages' descriptors; a test compares with what protobuf makes of
the parts.
"""

from collections.abc import Iterable, Sequence
from operator import itemgetter

from desk.v1.event_pb2 import SessionRecord
from desk.v1.event_service_pb2 import (
    CaughtUp,
    Checkpoint,
    FellBehind,
    ListRejectionsResponse,
    RecordBatch,
    SessionBatch,
    SubscribeResponse,
)
from desk.v1.session_pb2 import SessionKey
from desk.v1.session_service_pb2 import (
    BatchGetSessionsResponse,
    GetSessionResponse,
    ListSessionsResponse,
)
from desk.v1.status_pb2 import ResponseHeader
from google.protobuf.message import Message

from service.view.progress import Progress
from service.view.reader import Row

MAX_PREFIXES = 4_096
"""Lengths of a field for which what precedes it is kept."""


def varint(number: int) -> bytes:
    """Encode a non-negative integer as protobuf does: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def tag(message: type[Message], field: str) -> bytes:
    """Return what precedes the length of a field that is a message."""
    return varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2)


_HEADER = tag(SubscribeResponse, "header")
_RECORDS = tag(SubscribeResponse, "records")
_SESSIONS = tag(SubscribeResponse, "sessions")
_COMPLETE = SessionBatch(complete=True).SerializeToString()


class _Prefixes(dict[int, bytes]):
    """The bytes before a field's value, by its length; most values have a few hundred lengths."""

    def __init__(self, head: bytes) -> None:
        self._head = head

    def __missing__(self, length: int) -> bytes:
        prefix = self._head + varint(length)
        if len(self) < MAX_PREFIXES:
            self[length] = prefix
        return prefix


_OF_RECORDS = _Prefixes(tag(RecordBatch, "records"))
_OF_SESSIONS = _Prefixes(tag(SessionBatch, "sessions"))
_OF_ANSWER = _Prefixes(tag(GetSessionResponse, "session"))  # session, sessions, records: field 2
_OF_SESSION = _Prefixes(tag(SessionRecord, "session"))


def header_of(progress: Progress) -> ResponseHeader:
    """The header of an answer that was read together with `progress`."""
    return ResponseHeader(journal_id=progress.journal_id, revision=progress.applied_revision)


def records(header: ResponseHeader, rows: Sequence[Row], *, with_session: bool) -> bytes:
    """A SubscribeResponse of feed rows: (position, record[, session, …])."""
    blobs = list(map(_with_session if with_session else itemgetter(1), rows))
    return _response(header, _RECORDS, _repeated(_OF_RECORDS, blobs))


def _with_session(row: Row) -> bytes:
    record: bytes = row[1]
    session: bytes | None = row[2]
    return record if session is None else b"".join((record, _OF_SESSION[len(session)], session))


def sessions(header: ResponseHeader, blobs: Sequence[bytes], *, complete: bool) -> bytes:
    """A SubscribeResponse of serialised sessions."""
    end = [_COMPLETE] if complete else []
    return _response(header, _SESSIONS, _repeated(_OF_SESSIONS, blobs) + end)


def session(header: ResponseHeader, blob: bytes) -> bytes:
    """A GetSessionResponse of a serialised session."""
    return b"".join((*_head(header), _OF_ANSWER[len(blob)], blob))


def batch(header: ResponseHeader, blobs: Sequence[bytes], missing: Iterable[SessionKey]) -> bytes:
    """A BatchGetSessionsResponse of serialised sessions."""
    return _answer(header, blobs, BatchGetSessionsResponse(missing=missing))


def page(header: ResponseHeader, blobs: Sequence[bytes], next_page_token: str) -> bytes:
    """A ListSessionsResponse of serialised sessions."""
    return _answer(header, blobs, ListSessionsResponse(next_page_token=next_page_token))


def rejections(header: ResponseHeader, rows: Iterable[Row], next_page_token: str) -> bytes:
    """A ListRejectionsResponse of feed rows: (position, record)."""
    rest = ListRejectionsResponse(next_page_token=next_page_token)
    return _answer(header, [row[1] for row in rows], rest)


def caught_up(header: ResponseHeader) -> bytes:
    """The stream has reached the present."""
    return SubscribeResponse(header=header, caught_up=CaughtUp()).SerializeToString()


def checkpoint(header: ResponseHeader) -> bytes:
    """A place to resume from."""
    return SubscribeResponse(header=header, checkpoint=Checkpoint()).SerializeToString()


def fell_behind(header: ResponseHeader) -> bytes:
    """The stream is served from the view again."""
    return SubscribeResponse(header=header, fell_behind=FellBehind()).SerializeToString()


def _repeated(prefixes: _Prefixes, blobs: Sequence[bytes]) -> list[bytes]:
    """A repeated message field, in parts, from its serialised elements."""
    parts = [b""] * (2 * len(blobs))
    parts[::2] = map(prefixes.__getitem__, map(len, blobs))
    parts[1::2] = blobs
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

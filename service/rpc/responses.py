"""Responses as the wire has them, joined from records and sessions that are stored serialised.

A protobuf object for each record would cost more than the rest of a stream. The field numbers come
from the messages' descriptors; a test compares with protobuf's own serialisation.
"""

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

from google.protobuf.message import Message

from desk.v1.event_pb2 import SessionRecord
from desk.v1.event_service_pb2 import RecordBatch, SessionBatch, SubscribeResponse
from desk.v1.session_service_pb2 import GetSessionResponse
from desk.v1.status_pb2 import ResponseHeader
from service.positions import complete_revision, last_of, revision_of
from service.records import is_forgotten
from service.view.bounds import Row
from service.view.progress import Progress

MAX_PREFIXES = 4_096
"""Lengths of a field whose prefix is cached."""


class BatchFormat(NamedTuple):
    """The form in which a subscriber wants records.

    Attributes:
        max_batch: records in one message, exceeded only to complete a revision.
        with_session: True to send the session with each record.
    """

    max_batch: int
    with_session: bool


class Encoded(NamedTuple):
    """Serialised messages, and the position that a stream reaches with them."""

    messages: list[bytes]
    reached: int

    def size(self) -> int:
        return sum(map(len, self.messages))


def varint(number: int) -> bytes:
    """Encode a non-negative integer as protobuf does: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def tag(message: type[Message], field: str) -> bytes:
    """Return the tag of a field that is a message."""
    return varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2)


_HEADER = tag(SubscribeResponse, "header")
_RECORDS = tag(SubscribeResponse, "records")
_SESSIONS = tag(SubscribeResponse, "sessions")
_COMPLETE = SessionBatch(complete=True).SerializeToString()


class _Prefixes(dict[int, bytes]):
    """Tag and length of a field, by length; most values have a few hundred lengths."""

    def __init__(self, tag: bytes) -> None:
        self._tag = tag

    def __missing__(self, length: int) -> bytes:
        prefix = self._tag + varint(length)
        if len(self) < MAX_PREFIXES:
            self[length] = prefix
        return prefix


_OF_RECORDS = _Prefixes(tag(RecordBatch, "records"))
_OF_SESSIONS = _Prefixes(tag(SessionBatch, "sessions"))
_OF_ANSWER = _Prefixes(tag(GetSessionResponse, "session"))
_OF_SESSION = _Prefixes(tag(SessionRecord, "session"))


def header(journal_id: str, revision: int) -> ResponseHeader:
    return ResponseHeader(journal_id=journal_id, revision=revision)


def header_of(progress: Progress) -> ResponseHeader:
    """Make the header of an answer that was read together with `progress`."""
    return header(progress.journal_id, progress.applied_revision)


def encode(
    journal_id: str, rows: Sequence[Row], reached: int, batch_format: BatchFormat
) -> Encoded:
    """Make messages of all rows up to and including the position `reached`."""
    messages = [
        _message(header(journal_id, complete_revision(end)), batch, batch_format.with_session)
        for part, reaches in _runs(rows, reached)
        for batch, end in batches(part, reaches, batch_format.max_batch)
    ]
    return Encoded(messages, reached)


def _runs(rows: Sequence[Row], reached: int) -> Iterator[tuple[Sequence[Row], int]]:
    """Cut rows into runs of records, and single rows of FORGET entries; each with its end."""
    start = 0
    for place in [place for place, row in enumerate(rows) if is_forgotten(row[1])]:
        revision = _revision(rows[place])
        yield rows[start:place], last_of(revision - 1)
        start = place + 1
        yield rows[place:start], last_of(revision) if start < len(rows) else reached
    yield rows[start:], reached


def _message(header: ResponseHeader, rows: Sequence[Row], with_session: bool) -> bytes:
    if is_forgotten(rows[0][1]):
        return b"".join((*_head(header), rows[0][1]))
    return records(header, rows, with_session=with_session)


def batches(
    rows: Sequence[Row], reached: int, max_batch: int
) -> Iterator[tuple[Sequence[Row], int]]:
    """Cut rows into batches of whole revisions; each with the position that it reaches."""
    start = 0
    while len(rows) - start > max_batch:
        stop = _boundary(rows, start, start + max_batch)
        if stop == len(rows):
            break
        yield rows[start:stop], last_of(_revision(rows[stop - 1]))
        start = stop
    if start < len(rows):
        yield rows[start:], reached


def _boundary(rows: Sequence[Row], start: int, stop: int) -> int:
    """Return an end of a revision: the last one up to `stop`, or else the first one after it."""
    revision = _revision(rows[stop])
    first = stop
    while first > start and _revision(rows[first - 1]) == revision:
        first -= 1
    if first > start:
        return first
    while stop < len(rows) and _revision(rows[stop]) == revision:
        stop += 1
    return stop


def _revision(row: Row) -> int:
    return revision_of(row[0])


def records(header: ResponseHeader, rows: Sequence[Row], *, with_session: bool) -> bytes:
    """Make a SubscribeResponse of feed rows: (position, record[, session, …])."""
    blobs = list(map(_with_session if with_session else itemgetter(1), rows))
    return _response(header, _RECORDS, _repeated(_OF_RECORDS, blobs))


def _with_session(row: Row) -> bytes:
    record: bytes = row[1]
    session: bytes | None = row[2]
    return record if session is None else b"".join((record, _OF_SESSION[len(session)], session))


def sessions(header: ResponseHeader, blobs: Sequence[bytes], *, complete: bool) -> bytes:
    """Make a SubscribeResponse of serialised sessions."""
    end = [_COMPLETE] if complete else []
    return _response(header, _SESSIONS, _repeated(_OF_SESSIONS, blobs) + end)


def _repeated(prefixes: _Prefixes, blobs: Sequence[bytes]) -> list[bytes]:
    """Return the parts of a repeated message field, from its serialised elements."""
    parts = [b""] * (2 * len(blobs))
    parts[::2] = map(prefixes.__getitem__, map(len, blobs))
    parts[1::2] = blobs
    return parts


def _response(header: ResponseHeader, tag: bytes, content: Sequence[bytes]) -> bytes:
    """Join a header and one message field, once, as this may be a megabyte."""
    return b"".join((*_head(header), tag, varint(sum(map(len, content))), *content))


def answer(header: ResponseHeader, blobs: Sequence[bytes], rest: Message) -> bytes:
    """Join a header, serialised sessions or records, and a message with the fields after that.

    The sessions or records are field 2 of every answer that has some.
    """
    return b"".join((*_head(header), *_repeated(_OF_ANSWER, blobs), rest.SerializeToString()))


def _head(header: ResponseHeader) -> tuple[bytes, bytes]:
    blob = header.SerializeToString()
    return _HEADER + varint(len(blob)), blob

"""Cuts rows of the feed into messages: of whole revisions, and of as many records as asked for."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from desk.v1.status_pb2 import ResponseHeader

from service.positions import complete_revision, last_of, revision_of
from service.rpc import frames
from service.view.reader import Row


class Encoded(NamedTuple):
    """Messages ready to be sent, and the position that a stream has reached with them."""

    messages: list[bytes]
    reached: int

    def size(self) -> int:
        """Return the bytes of all messages."""
        return sum(map(len, self.messages))


def encode(
    journal_id: str, rows: Sequence[Row], reached: int, *, max_batch: int, with_session: bool
) -> Encoded:
    """Make messages of all the rows there are up to and including `reached`."""
    messages = [
        frames.records(
            ResponseHeader(journal_id=journal_id, revision=complete_revision(end)),
            batch,
            with_session=with_session,
        )
        for batch, end in batches(rows, reached, max_batch)
    ]
    return Encoded(messages, reached)


def batches(
    rows: Sequence[Row], reached: int, max_batch: int
) -> Iterator[tuple[Sequence[Row], int]]:
    """Cut rows into batches; each with the position that it reaches.

    A batch has at most `max_batch` rows, more only to complete a revision.
    """
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
    """The end of a revision: the last one up to `stop`, or else the first one after it."""
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
    revision: int = revision_of(row[0])
    return revision

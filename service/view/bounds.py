"""Bounds of one read of the view, and the rows that fit into them."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from service.positions import position_of, revision_of

FRAMING = 16
"""Bytes that a record costs on the wire beyond its own, at most."""

Row = tuple[Any, ...]
"""A row of a read. One of the feed begins with position, record and perhaps session."""

SizeOf = Callable[[Row], int]
"""Returns the bytes of a row."""


class Bounds(NamedTuple):
    """Bounds of one read.

    Attributes:
        revisions: of the feed that it looks at.
        size: bytes of records or sessions after which it stops.
        rows: rows that it looks at for a page.
    """

    revisions: int = 5_000
    size: int = 1024 * 1024
    rows: int = 10_000


def cut(rows: Iterable[Row], until: int, *, enough: int) -> tuple[list[Row], int]:
    """Take rows up to `enough` bytes, at least one: whole revisions, unless one alone exceeds it.

    Returns the rows and the position up to which they are all there are; `until` if all are.
    """
    taken: list[Row] = []
    size = 0
    for row in rows:  # not by `take_bytes`: a call for each row would show
        size += len(row[1]) + FRAMING
        if len(row) > 2 and row[2]:
            size += len(row[2])
        if size > enough and taken:
            return whole_revisions(taken, row[0])
        taken.append(row)
    return taken, until


def size_of(row: Row) -> int:
    """Return the bytes of a record, and of its session if there is one."""
    size: int = len(row[1]) + FRAMING
    return size + len(row[2] or b"") if len(row) > 2 else size


def whole_revisions(taken: list[Row], following: int) -> tuple[list[Row], int]:
    """Drop the rows of the revision that the `following` position is of, unless all are of it.

    Returns the others, and the position up to which they are all there are.
    """
    start = position_of(revision_of(following))
    if taken[0][0] >= start:
        return taken, taken[-1][0]
    while taken[-1][0] >= start:
        taken.pop()
    return taken, start - 1


def take_bytes(rows: Iterable[Row], size: SizeOf, enough: int) -> tuple[list[Any], bool]:
    """Take rows up to `enough` bytes, at least one; say whether that was the reason to stop."""
    taken: list[Row] = []
    total = 0
    for row in rows:
        total += size(row) + FRAMING
        if total > enough and taken:
            return taken, True
        taken.append(row)
    return taken, False

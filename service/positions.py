"""Positions in the feed: a revision, and the ordinal of a record among those of the revision."""

ORDINAL_BITS = 20
"""A position is `revision << ORDINAL_BITS | ordinal`."""

MAX_REVISION = (1 << 63 - ORDINAL_BITS) - 1
"""The greatest revision that has a position in 64 bits."""


def position_of(revision: int, ordinal: int = 0) -> int:
    """Return the position of a record.

    Raises:
        ValueError: the revision has no room for so many records.
    """
    if ordinal >> ORDINAL_BITS:
        raise ValueError(f"revision {revision} has more than {1 << ORDINAL_BITS} records")
    return revision << ORDINAL_BITS | ordinal


def revision_of(position: int) -> int:
    return position >> ORDINAL_BITS


def last_of(revision: int) -> int:
    """Return the last position that a revision can have."""
    return position_of(revision + 1) - 1


def complete_revision(position: int) -> int:
    """Return the last revision whose records are all at or before a position.

    A stream that was read up to the position is resumed after this revision.
    """
    return revision_of(position + 1) - 1

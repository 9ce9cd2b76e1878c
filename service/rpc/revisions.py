"""The revisions that clients name: still kept, reached, or waited for."""

import asyncio

from service.rpc.calls import Call
from service.rpc.errors import CallRefused, ErrorReason
from service.rpc.live_feed import LiveFeed
from service.view.reader import Reader


def check_kept(after: int, oldest: int, journal_id: str, remedy: str = "") -> None:
    """Check that everything after a revision can still be read; raises REVISION_NOT_KEPT."""
    if after < oldest - 1:
        raise CallRefused(
            ErrorReason.REVISION_NOT_KEPT,
            f"revisions before {oldest} are no longer kept{remedy}",
            oldest_revision=oldest,
            journal_id=journal_id,
        )


def in_future(revision: int, applied: int) -> CallRefused:
    """Make the error for a revision that does not exist yet."""
    return CallRefused(
        ErrorReason.REVISION_IN_FUTURE,
        f"revision {revision} has not been reached; the last one is {applied}",
        applied_revision=applied,
    )


def not_reached(revision: int, applied: int) -> CallRefused:
    """Make the error for a revision that is known to exist, and is not in the view in time."""
    return CallRefused(
        ErrorReason.REVISION_NOT_REACHED,
        f"the view had not reached revision {revision} in time",
        applied_revision=applied,
    )


async def reach(feed: LiveFeed, reader: Reader, revision: int, seconds: float) -> bool:
    """Wait until the view contains a revision; return False if it does not in time.

    Raises:
        CallRefused: SHUTTING_DOWN.
    """
    if reader.progress().applied_revision >= revision:
        return True
    with feed.following(), feed.waiters.revision(revision) as reached:
        # Read again: from here on the feed announces every commit.
        if reader.progress().applied_revision >= revision:
            return True
        try:
            await asyncio.wait_for(reached, seconds)
        except TimeoutError:
            return False
    return True


async def await_revision(feed: LiveFeed, reader: Reader, revision: int, call: Call) -> None:
    """Wait until the view contains a revision that a client has seen elsewhere (0: none).

    Raises:
        CallRefused: REVISION_NOT_REACHED, TOO_MANY_WAITERS, and as `reach`.
    """
    if not revision or reader.progress().applied_revision >= revision:
        return
    with call.waiting():
        seconds = call.time_left(feed.limits.revision_seconds)
        reached = await reach(feed, reader, revision, seconds)
    if not reached:
        raise not_reached(revision, reader.progress().applied_revision)

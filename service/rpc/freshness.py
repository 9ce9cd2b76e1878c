"""Which revision an answer is of: waiting for one that is to come, refusing one that is gone."""

import asyncio
from typing import Any

from service.rpc.errors import Reason, Refused
from service.rpc.feed import Feed
from service.view.reader import Reader

REVISION_WAIT = 10.0
"""Seconds to wait for a revision where the call has no earlier deadline."""


def time_left(context: Any, most: float) -> float:
    """Seconds that a call may wait: a little less than its deadline, so that it hears why."""
    remaining: float | None = context.time_remaining()
    if remaining is None:
        return most
    return min(most, remaining - min(0.1, remaining / 10))


async def reach(feed: Feed, reader: Reader, revision: int, seconds: float) -> bool:
    """Wait until the view contains a revision; say whether it does.

    Raises:
        Refused: TOO_MANY_WAITERS, SHUTTING_DOWN.
    """
    if reader.progress().applied_revision >= revision:
        return True
    with feed.interest(), feed.waiters.revision(revision) as reached:
        # Looked at again: from here on the feed tells of every commit.
        if reader.progress().applied_revision >= revision:
            return True
        try:
            await asyncio.wait_for(reached, seconds)
        except TimeoutError:
            return False
    return True


async def await_revision(feed: Feed, reader: Reader, revision: int, context: Any) -> None:
    """Read your writes: wait until the view contains `min_revision`.

    Raises:
        Refused: REVISION_NOT_REACHED, and as `reach`.
    """
    seconds = time_left(context, REVISION_WAIT)
    if not await reach(feed, reader, revision, seconds):
        raise Refused(
            Reason.REVISION_NOT_REACHED,
            f"the view had not reached revision {revision} in time",
            applied_revision=reader.progress().applied_revision,
        )


def in_future(revision: int, applied: int) -> Refused:
    """Somebody asked for a revision that does not exist yet."""
    return Refused(
        Reason.REVISION_IN_FUTURE,
        f"revision {revision} has not been reached; the last one is {applied}",
        applied_revision=applied,
    )

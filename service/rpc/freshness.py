"""Waits for revisions that are to come, and refuses those that are not."""

import asyncio

from service.rpc.calls import Call
from service.rpc.errors import Reason, Refused
from service.rpc.feed import Feed
from service.view.reader import Reader

REVISION_WAIT = 10.0
"""Seconds to wait for a revision where the call has no earlier deadline."""


def time_left(call: Call, most: float) -> float:
    """Seconds that a call may wait: a little less than its deadline, so that it can answer."""
    remaining = call.time_remaining()
    if remaining is None:
        return most
    return min(most, remaining - min(0.1, remaining / 10))


async def reach(feed: Feed, reader: Reader, revision: int, seconds: float) -> bool:
    """Wait until the view contains a revision; say whether it does.

    Raises:
        Refused: SHUTTING_DOWN.
    """
    if reader.progress().applied_revision >= revision:
        return True
    with feed.interest(), feed.waiters.revision(revision) as reached:
        # Read again: from here on the feed announces every commit.
        if reader.progress().applied_revision >= revision:
            return True
        try:
            await asyncio.wait_for(reached, seconds)
        except TimeoutError:
            return False
    return True


async def await_revision(feed: Feed, reader: Reader, revision: int, call: Call) -> None:
    """Read your writes: wait until the view contains `min_revision`.

    Raises:
        Refused: REVISION_NOT_REACHED, TOO_MANY_WAITERS, and as `reach`.
    """
    if reader.progress().applied_revision >= revision:
        return
    with call.waiting():
        reached = await reach(feed, reader, revision, time_left(call, REVISION_WAIT))
    if not reached:
        raise Refused(
            Reason.REVISION_NOT_REACHED,
            f"the view had not reached revision {revision} in time",
            applied_revision=reader.progress().applied_revision,
        )


def in_future(revision: int, applied: int) -> Refused:
    """Make the refusal of a revision that does not exist yet."""
    return Refused(
        Reason.REVISION_IN_FUTURE,
        f"revision {revision} has not been reached; the last one is {applied}",
        applied_revision=applied,
    )

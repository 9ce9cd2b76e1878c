"""A subscriber that hops from one replica to another, and goes on where it was."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from random import Random

from desk.client import Client, Retryable
from desk.v1.event_pb2 import SessionRecord
from tests.support.through_upgrade import EVERYTHING

HOP_WITHIN = (0.1, 0.4, 1.5)
"""Seconds that it stays with a replica, about."""

STATUS_WITHIN = 1.0
"""Seconds in which a replica tells its digest, or it is not compared this time."""

TRY_AGAIN = 0.1
"""Seconds until a replica is asked again when one is away, or behind the position."""

Record = tuple[int, int, bytes]
"""Revision, ordinal and content."""


class Hopper:
    """Follows the feed over several replicas.

    Attributes:
        records: in the order in which they came.
        revision: the position.
        digests: of the feed, by revision, as any replica told it.
        counts: hops, refusals of replicas that were behind (lagging), and connections lost.
        faults: digests that differed.
    """

    def __init__(self, targets: Sequence[str], journal_id: str, after: int, random: Random) -> None:
        self.records: list[Record] = []
        self.revision = after
        self.digests: dict[int, str] = {}
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self._targets = targets
        self._journal_id = journal_id
        self._random = random

    async def run(self, is_done: Callable[[], bool]) -> None:
        """Follow until the condition holds.

        Raises:
            ClientError: a replica refuses the position for good.
        """
        while not is_done():
            target = self._random.choice(self._targets)
            seconds = self._random.choice(HOP_WITHIN) * self._random.uniform(0.7, 1.3)
            self.counts["hops"] += 1
            async with Client(target) as client:
                with suppress(TimeoutError, Retryable):
                    await self._compare_digest(client)
                try:
                    async with asyncio.timeout(seconds):
                        await self._follow(client)
                except TimeoutError:
                    pass
                except Retryable as error:
                    is_behind = error.reason == "REVISION_NOT_REACHED"
                    self.counts["lagging" if is_behind else "lost"] += 1
                    await asyncio.sleep(TRY_AGAIN)

    async def _follow(self, client: Client) -> None:
        updates = client.subscribe(
            after_revision=self.revision,
            journal_id=self._journal_id,
            event_filter=EVERYTHING,
            give_up_after=0.0,
        )
        async with aclosing(updates):
            async for update in updates:
                self.records += map(as_record, update.records)
                self.revision = update.revision

    async def _compare_digest(self, client: Client) -> None:
        async with asyncio.timeout(STATUS_WITHIN):
            status = await client.status()
        revision, digest = status.header.revision, status.feed_digest
        if self.digests.setdefault(revision, digest) != digest:
            self.faults.append(f"two digests at revision {revision}")


def as_record(record: SessionRecord) -> Record:
    return record.revision, record.ordinal, record.SerializeToString(deterministic=True)


async def read_feed(client: Client, after: int, head: int) -> list[Record]:
    """Return the records up to a revision."""
    found: list[Record] = []
    async with aclosing(client.subscribe(after_revision=after, event_filter=EVERYTHING)) as updates:
        async for update in updates:
            found += [as_record(each) for each in update.records if each.revision <= head]
            if update.revision >= head:
                break
    return found

"""Subscribers that come and go, in a process of their own, and check the order of events.

`python -m benchmarks.visitors TARGET FILE` runs until SIGTERM, then writes a `Visits` to the file
as JSON. Each visitor reads the feed for some seconds: from its last position, from an earlier one,
or from now on. Some read slowly, so that they fall behind.
"""

import asyncio
import signal
import sys
from contextlib import aclosing
from pathlib import Path
from random import Random

import msgspec

from desk.client import Client, Update
from desk.v1.event_pb2 import EventFilter, Verdict

VISITORS = 8
STAY = (0.5, 15.0)
"""Shortest and longest visit in seconds; the duration is random."""

EARLIER = 10_000
"""Revisions that a visitor goes back at most."""

SLOW = 0.1
"""Share of slow visits."""

PAUSE = 0.2
"""Seconds between two messages of a slow visit."""

MOST_PROBLEMS = 50

EVERYTHING = EventFilter(
    verdicts=[
        Verdict.VERDICT_ACCEPTED, Verdict.VERDICT_REJECTED, Verdict.VERDICT_UNRECOGNISED,
    ]
)  # fmt: skip


class Visits(msgspec.Struct):
    """The results of all visits.

    Attributes:
        problems: events out of order; empty if there were none.
    """

    visits: int = 0
    events: int = 0
    fell_behind: int = 0
    reconnected: int = 0
    problems: list[str] = []


class Place:
    """The position of a visit. Checks that the right record comes next."""

    def __init__(self, after: int | None) -> None:
        self.reached = after
        self._shown: tuple[int, int | None] | None = None if after is None else (after, None)

    def take(self, update: Update) -> str:
        """Advance by an update. Return the problem with it, if there is one."""
        for record in update.records:
            place = (record.revision, record.ordinal)
            if not self._may_follow(*place):
                return f"{place} came after {self._shown}"
            self._shown = place
        self.reached = update.revision
        if self._shown is None:
            self._shown = (update.revision, None)
        # Part of a revision that is too large for one message is not to be resumed after.
        if not self._shown[0] - 1 <= update.revision <= self._shown[0]:
            return f"at revision {update.revision}, only {self._shown} was shown"
        return ""

    def _may_follow(self, revision: int, ordinal: int) -> bool:
        if self._shown is None:
            return ordinal == 0
        before, place = self._shown
        if revision == before:
            return place is not None and ordinal == place + 1
        return revision == before + 1 and ordinal == 0


async def visit_all(target: str) -> Visits:
    """Run visits until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    report = Visits()
    visitors = [
        asyncio.create_task(_visitor(target, Random(number), report)) for number in range(VISITORS)
    ]
    print('{"visiting": true}', flush=True)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({stopped, *visitors}, return_when=asyncio.FIRST_COMPLETED)
    for each in visitors:
        if each.done() and (error := each.exception()):
            report.problems.append(repr(error))
        each.cancel()
    return report


async def _visitor(target: str, random: Random, report: Visits) -> None:
    reached: int | None = None
    while len(report.problems) < MOST_PROBLEMS:
        start = random.choice((reached, reached, _earlier(reached, random), None))
        place = Place(start)
        problem = await _visit(target, place, random, report)
        if problem:
            report.problems.append(f"a visit after {start}: {problem}")
        reached = place.reached
        report.visits += 1


def _earlier(reached: int | None, random: Random) -> int:
    return max(0, (reached or 0) - random.randrange(EARLIER))


async def _visit(target: str, place: Place, random: Random, report: Visits) -> str:
    """Run one visit. Return the problem, if there was one."""
    pause = PAUSE if random.random() < SLOW else 0
    try:
        async with asyncio.timeout(random.uniform(*STAY)), Client(target) as client:
            updates = client.subscribe(
                after_revision=place.reached,
                event_filter=EVERYTHING,
                max_batch=random.choice((10, 100, 500, 1_000)),
                include_session=random.random() < 0.3,
            )
            async with aclosing(updates):
                async for update in updates:
                    _count(update, report)
                    if problem := place.take(update):
                        return problem
                    await asyncio.sleep(pause)
    except TimeoutError:
        pass  # the end of the visit
    return ""


def _count(update: Update, report: Visits) -> None:
    report.events += len(update.records)
    report.fell_behind += update.fell_behind
    report.reconnected += update.resumed


if __name__ == "__main__":
    found = asyncio.run(visit_all(sys.argv[1]))
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(found))

"""The live streams by filter, and the wake-ups of those that a new row of the feed concerns.

A filter is evaluated once for a row, however many streams share it, and only if the row has one of
the values that the filter names in its most selective field.
"""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import chain

from service.records import is_forgotten
from service.view.selection import EventSelection, LiveRow


class Wakeup:
    """The sleep of one stream; ended by new rows, the time of its checkpoint, or the drain."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def sleep(self, until: float) -> None:
        """Return when woken or about `until` (the loop's clock); may return early."""
        if self._timer is None:
            # Not armed anew for every sleep: thousands of streams wake far more often than this.
            self._timer = self._loop.call_at(until, self._expire)
        self._future = self._loop.create_future()
        try:
            await self._future
        finally:
            self._future = None

    def wake(self) -> None:
        """End the sleep, if any."""
        if self._future and not self._future.done():
            self._future.set_result(None)

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _expire(self) -> None:
        self._timer = None
        self.wake()


class FilterGroup:
    """The streams of one filter.

    Attributes:
        selection: the filter.
        selects: returns True for a row that passes it.
        last_match: no row between this position and the feed's announced one passes.
        members: number of streams.
        wakeups: of those streams that are live.
    """

    def __init__(self, selection: EventSelection, last_match: int) -> None:
        self.selection = selection
        self.selects = selection.predicate()
        self.last_match = last_match
        self.members = 0
        self.wakeups: set[Wakeup] = set()
        self._without_match = (last_match, last_match)

    def match(self, position: int, announced: int) -> None:
        """Note the last row that passes after the `announced` position, and wake all streams."""
        self._without_match = (self.last_match, max(self.last_match, announced))
        self.last_match = max(self.last_match, position)
        self.wake()

    def skip(self, position: int) -> int:
        """Return the end of the rows without a match that a position is in, or the position."""
        start, end = self._without_match
        return end if start <= position < end else position

    def wake(self) -> None:
        for wakeup in self.wakeups:
            wakeup.wake()


class FilterIndex:
    """All filter groups, indexed by the values that their filters name."""

    def __init__(self) -> None:
        self._groups: dict[EventSelection, FilterGroup] = {}
        self._by_value: dict[tuple[str, int | str], set[FilterGroup]] = {}

    def __iter__(self) -> Iterator[FilterGroup]:
        return iter(tuple(self._groups.values()))

    def match_all(self, position: int, announced: int) -> Iterator[None]:
        """Wake every group, in small steps."""
        for group in self:
            group.match(position, announced)
            yield

    def join(self, selection: EventSelection, last_match: int) -> FilterGroup:
        """Add a stream to the group of its filter."""
        group = self._groups.get(selection)
        if group is None:
            group = self._groups[selection] = FilterGroup(selection, last_match)
            for key in selection.index_keys():
                self._by_value.setdefault(key, set()).add(group)
        group.members += 1
        return group

    def leave(self, group: FilterGroup) -> None:
        group.members -= 1
        if group.members:
            return
        del self._groups[group.selection]
        for key in group.selection.index_keys():
            self._by_value[key].discard(group)
            if not self._by_value[key]:
                del self._by_value[key]

    def announce(self, rows: Sequence[LiveRow], announced: int) -> Iterator[None]:
        """Wake the groups that select rows after the announced position, in small steps.

        Groups may come and go between two steps.
        """
        for row in reversed(rows):
            if is_forgotten(row.record):
                yield from self._announce_forgotten(row, announced)
            found = [self._by_value[key] for key in row.index_keys() if key in self._by_value]
            # A group whose last match is not earlier has been woken for a later row.
            for group in [g for g in chain(*found) if g.last_match < row.position]:
                if group.selects(row):
                    group.match(row.position, announced)
                yield
            yield

    def _announce_forgotten(self, row: LiveRow, announced: int) -> Iterator[None]:
        """Wake every group, in small steps: streams that do not select the row get a checkpoint."""
        for group in self:
            if group.last_match < row.position and group.selects(row):
                group.match(row.position, announced)
            else:
                group.wake()
            yield

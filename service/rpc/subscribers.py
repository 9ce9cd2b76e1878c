"""The open streams of a worker, as StatusService lists them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import nsmallest

import msgspec

from desk.v1.status_pb2 import Subscriber
from service.positions import complete_revision
from service.records import duration, timestamp
from service.rpc.filter_groups import FilterGroup
from service.view.selection import EventSelection

ReceivedAfter = Callable[[int], int]
"""Returns the time (ms) at which the first callback after a position was received; 0: unknown."""


class Place:
    """The place of one stream in the feed.

    Attributes:
        position: everything up to here is sent, or does not pass the filter.
    """

    def __init__(self, client: str, address: str, group: FilterGroup) -> None:
        self._client = client
        self._address = address.removeprefix("ipv4:")
        self._group = group
        self._started_at = _now()
        self.position = 0

    def described(self, head: int, received_after: ReceivedAfter, worker: str) -> Subscriber:
        """Return the stream as a message; `head` is the position that it can have reached."""
        revision = self._revision(head)
        received_at = 0 if self._has_all else received_after(self.position)
        return Subscriber(
            client=self._client,
            address=self._address,
            filter=_summary(self._group.selection),
            started_at=timestamp(self._started_at),
            revision=revision,
            lag=max(0, complete_revision(head) - revision),
            lag_time=duration(max(0, _now() - received_at) if received_at else 0),
            worker=worker,
        )

    def order(self, head: int) -> tuple[int, int]:
        """Return a key that sorts as `furthest_behind` does."""
        return min(self._revision(head), complete_revision(head)), self._started_at

    def _revision(self, head: int) -> int:
        return complete_revision(max(self.position, head) if self._has_all else self.position)

    @property
    def _has_all(self) -> bool:
        return self.position >= self._group.last_match


class Places:
    """The places of all open streams."""

    def __init__(self) -> None:
        self._open: set[Place] = set()

    @contextmanager
    def listed(self, place: Place) -> Iterator[None]:
        """List a stream while the block runs."""
        self._open.add(place)
        try:
            yield
        finally:
            self._open.discard(place)

    def __len__(self) -> int:
        return len(self._open)

    def described(
        self, head: int, received_after: ReceivedAfter, worker: str, most: int
    ) -> list[Subscriber]:
        """Return the streams that are furthest behind as messages, at most so many."""
        chosen = nsmallest(most, self._open, key=lambda place: place.order(head))
        return [place.described(head, received_after, worker) for place in chosen]


def furthest_behind(stream: Subscriber) -> tuple[int, int]:
    """Return a key that sorts streams: the furthest behind first, then the oldest."""
    return -stream.lag, stream.started_at.ToMilliseconds()


def _now() -> int:
    return time.time_ns() // 1_000_000


def _summary(selection: EventSelection) -> str:
    """Return the fields of a filter with the numbers of their values, and no value."""
    fields = msgspec.structs.asdict(selection)
    fields["verdicts"] = fields["verdicts"].bit_count() * (0,)
    return ", ".join(f"{name}: {len(values)}" for name, values in fields.items() if values)

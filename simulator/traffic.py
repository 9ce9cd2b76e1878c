"""The order in which callbacks are sent: interleaved by time, some late, some twice."""

import heapq
from collections.abc import Iterable, Iterator
from random import Random

import msgspec

from simulator.callbacks import Made
from simulator.lives import Life

WINDOW = 60_000
"""Milliseconds of event time by which a callback is late, or repeated, at most."""


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A callback to send, its `RequestID`, and the event time at which it is sent, ms."""

    callback: Made
    request_id: str
    at: int = 0


def deliveries(
    lives: Iterable[Life], *, seed: int, duplicates: float = 0, shuffle: float = 0
) -> Iterator[Delivery]:
    """Yield the callbacks of all lives as one stream, in order of their times.

    Args:
        lives: about ascending by their first time; read lazily.
        seed: of everything random.
        duplicates: share of callbacks sent twice, within `WINDOW`; half of these with the same
            `RequestID`, as in retries, half with another.
        shuffle: share of callbacks sent out of order: late by up to `WINDOW`.
    """
    random = Random(f"{seed}/traffic")  # noqa: S311 (repeatable, not secret)
    waiting: list[tuple[int, int, Delivery]] = []
    number = 0
    for life in lives:
        start = min(callback.at for callback in life.callbacks)
        while waiting and waiting[0][0] < start:
            yield heapq.heappop(waiting)[2]
        for callback in life.callbacks:
            for at, request_id in _times(random, callback.at, duplicates, shuffle):
                number += 1  # breaks ties: deliveries have no order
                heapq.heappush(waiting, (at, number, Delivery(callback, request_id, at)))
    while waiting:
        yield heapq.heappop(waiting)[2]


def _times(random: Random, at: int, duplicates: float, shuffle: float) -> Iterator[tuple[int, str]]:
    """Yield the time and the `RequestID` of each delivery of a callback: one or two."""
    request_id = f"{random.getrandbits(64):016x}"
    if random.random() < shuffle:
        at += random.randint(1, WINDOW)
    yield at, request_id
    if random.random() < duplicates:
        again = request_id if random.random() < 0.5 else f"{random.getrandbits(64):016x}"
        yield at + random.randint(0, WINDOW), again

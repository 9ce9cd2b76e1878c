"""Decides which connections are closed, so that nobody takes the room or the memory of the others.

Monotonic time only. Knows of a connection what `Connection` says, and nothing of sockets.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from itertools import groupby, islice
from operator import attrgetter, itemgetter
from typing import Protocol, TypeVar

IDLE = 75.0
"""Seconds after which a connection on which nothing happens is closed."""

ANSWER = 2.0
"""Seconds within which a request is answered: who is quiet for longer does not read the answer."""

RECEIVE = 10.0
"""Seconds that a request may take to arrive, from its first byte to its last."""

LINGER = 2.0
"""Seconds for which bytes behind a refused request are read and dropped, so that its sender can
read the answer (RFC 9112, 9.6)."""

SPARED = 1.0
"""Seconds for which a new connection, or a half-sent request, is spared when others need room."""

SPARED_WHEN_FULL = 0.25
"""The same, while not even the reserve has room."""

RESERVE = 1 / 16
"""Part of the connections that is kept free, so that a new one is accepted, and seen, at once."""

HALF_SENT = 0.75
"""Part of the connections that may be in the middle of sending a request for longer than `SPARED`.
The rest is for those that finish."""

HALF_SENT_BYTES = 32 * 1024 * 1024
"""Bytes of bodies that have not arrived in full."""


class Connection(Protocol):
    """A connection, as far as it matters here.

    Attributes:
        address: the peer's `network`.
        accepted: when it was made.
        begun: when a request began of which a part has arrived, or was refused; 0.0 for neither.
        size: bytes of that request's body.
        refused: when a request was refused for good; 0.0 for never.
        quiet_since: when something was received or sent.
        is_busy: a request is being answered, or an answer is being sent.
    """

    address: str
    accepted: float
    quiet_since: float
    refused: float

    @property
    def begun(self) -> float: ...
    @property
    def size(self) -> int: ...
    @property
    def is_busy(self) -> bool: ...


C = TypeVar("C", bound=Connection)


@dataclass(frozen=True)
class Limits:
    """The number of connections there may be.

    Attributes:
        connections: in all.
        per_address: from one address; 0: as many as in all.
    """

    connections: int
    per_address: int = 0

    def is_full(self, number: int) -> bool:
        """Return whether no further connection can be accepted."""
        return number >= self.connections

    def is_crowded(self, number: int) -> bool:
        """Return whether the reserve is in use."""
        return self._too_many(number) > 0

    def surplus(self, connections: Sequence[C], now: float) -> set[C]:
        """Return the connections to close because others need their room.

        A request that has arrived in full is answered, as long as its client reads.

        Args:
            connections: all there are, the oldest first.
            now: `time.monotonic`.
        """
        closed = {*_half_sent_surplus(connections, self.connections, now), *_too_large(connections)}
        if 0 < self.per_address < len(connections):
            for group in _by_address(connections):
                closed.update(self._surplus_of_address(group, now))
        too_many = self._too_many(len(connections) - len(closed))
        if too_many > 0:
            spared = SPARED_WHEN_FULL if self.is_full(len(connections)) else SPARED
            rest = [each for each in connections if each not in closed]
            closed.update(islice(_of_the_largest(rest, now, spared), too_many))
        return closed

    def _too_many(self, number: int) -> int:
        return number - self.connections + max(1, int(self.connections * RESERVE))

    def _surplus_of_address(self, group: list[C], now: float) -> Iterator[C]:
        too_many = len(group) - self.per_address
        if too_many > 0:
            yield from islice(_expendable(group, now, SPARED), too_many)
        yield from _half_sent_surplus(group, self.per_address, now)


def network(address: str) -> str:
    """Return what stands for a client: its IPv4 address, or the first 64 bits of its IPv6 address.

    A client has a whole IPv6 network to itself, and may use another address for each connection.
    """
    if ":" not in address:
        return address
    whole = IPv6Address(address)
    return str(whole.ipv4_mapped or IPv6Address(int(whole) >> 64 << 64))


def overdue(connections: Iterable[C], now: float) -> list[C]:
    """Return the connections that have had their time."""
    return [
        each
        for each in connections
        if each.quiet_since < now - IDLE
        or 0 < each.begun < now - RECEIVE
        or 0 < each.refused < now - LINGER
    ]


def _by_address(connections: Iterable[C]) -> Iterator[list[C]]:
    by_address = sorted(connections, key=attrgetter("address"))
    return (list(group) for _, group in groupby(by_address, attrgetter("address")))


def _of_the_largest(connections: Iterable[C], now: float, spared: float) -> Iterator[C]:
    """Return what can be closed, beginning with the address that has the most connections."""
    ranked = [
        (len(group) - closed, each)
        for group in _by_address(connections)
        for closed, each in enumerate(_expendable(group, now, spared))
    ]
    ranked.sort(key=itemgetter(0), reverse=True)
    return (each for _, each in ranked)


def _half_sent_surplus(connections: Iterable[C], limit: int, now: float) -> Iterator[C]:
    """Return the oldest half-sent requests, as far as there are too many."""
    half_sent = _half_sent(connections)
    too_many = len(half_sent) - max(1, int(limit * HALF_SENT))
    return (each for each in half_sent[: max(0, too_many)] if each.begun < now - SPARED)


def _too_large(connections: Iterable[C]) -> Iterator[C]:
    """Return the oldest half-sent requests, as far as they take too much memory."""
    half_sent = _half_sent(connections)
    held = sum(each.size for each in half_sent)
    for each in half_sent:
        if held <= HALF_SENT_BYTES:
            return
        held -= each.size
        yield each


def _expendable(connections: Sequence[C], now: float, spared: float) -> Iterator[C]:
    """Return what can be closed: who does nothing or does not read, then half-sent requests."""
    others = [each for each in connections if not each.begun]
    others.sort(key=attrgetter("quiet_since"))
    for each in others:
        if each.quiet_since < now - ANSWER if each.is_busy else each.accepted < now - spared:
            yield each
    yield from (each for each in _half_sent(connections) if each.begun < now - spared)


def _half_sent(connections: Iterable[C]) -> list[C]:
    return sorted((each for each in connections if each.begun), key=attrgetter("begun"))

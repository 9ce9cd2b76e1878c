"""Chooses the connections to close, so that no client takes the room or the memory of others.

Knows the fields of `Connection`, and nothing of sockets. All times are monotonic.
"""

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv6Address
from itertools import groupby, islice
from operator import attrgetter, itemgetter
from typing import Protocol, TypeVar

from gateway.limits import Limits

RESERVE = 1 / 16
"""Part of the connections that is kept free, so that a new one is accepted at once."""

HALF_SENT = 0.75
"""Part of the connections that may be half-sent requests older than `Limits.spared`."""


class Connection(Protocol):
    """A connection. Times are `time.monotonic`.

    Attributes:
        address: the `client_network` of the peer.
        accepted: time of the connection.
        quiet_since: time when something was received or sent.
        begun: time when a half-sent request began, or a request was refused; 0.0 for neither.
        refused: time when a request was refused for good; 0.0 for never.
        size: bytes of the half-sent request's body.
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


def client_network(address: str) -> str:
    """Return the network that one client has: an IPv4 address, or 64 bits of an IPv6 address.

    A client with IPv6 can use another address of its network for each connection.
    """
    if ":" not in address:
        return address
    whole = IPv6Address(address)
    return str(whole.ipv4_mapped or IPv6Address(int(whole) >> 64 << 64))


def overdue(connections: Iterable[C], limits: Limits, now: float) -> list[C]:
    """Return the connections whose time is over."""
    return [
        each
        for each in connections
        if each.quiet_since < now - limits.idle
        or 0 < each.begun < now - limits.receive
        or 0 < each.refused < now - limits.linger
    ]


def reserve_used(number: int, limits: Limits) -> int:
    """Return the used places of the reserve; negative: the free places before it."""
    return number - limits.connections + max(1, int(limits.connections * RESERVE))


def surplus(connections: Sequence[C], limits: Limits, now: float) -> set[C]:
    """Return the connections to close because others need their room.

    A request that has arrived in full is answered, as long as its client reads.

    Args:
        connections: all there are, the oldest first.
        limits: of the server.
        now: `time.monotonic`.
    """
    begun_before = now - limits.spared
    closed = {
        *_half_sent_surplus(connections, limits.connections, begun_before),
        *_too_large(connections, limits.half_sent_bytes),
    }
    most = limits.of_one_address
    if most < len(connections):
        for group in _by_address(connections):
            closed.update(islice(_expendable(group, limits, now), max(0, len(group) - most)))
            closed.update(_half_sent_surplus(group, most, begun_before))
    too_many = reserve_used(len(connections) - len(closed), limits)
    if too_many > 0:
        rest = [each for each in connections if each not in closed]
        is_full = len(connections) >= limits.connections
        closed.update(islice(_of_the_largest(rest, limits, now, is_full=is_full), too_many))
    return closed


def _by_address(connections: Iterable[C]) -> Iterator[list[C]]:
    by_address = sorted(connections, key=attrgetter("address"))
    return (list(group) for _, group in groupby(by_address, attrgetter("address")))


def _of_the_largest(
    connections: Iterable[C], limits: Limits, now: float, *, is_full: bool
) -> Iterator[C]:
    """Return the connections that can be closed, those of the address with the most first."""
    ranked = [
        (len(group) - closed, each)
        for group in _by_address(connections)
        for closed, each in enumerate(_expendable(group, limits, now, is_full=is_full))
    ]
    ranked.sort(key=itemgetter(0), reverse=True)
    return (each for _, each in ranked)


def _expendable(
    connections: Sequence[C], limits: Limits, now: float, *, is_full: bool = False
) -> Iterator[C]:
    """Return the connections that can be closed: idle or unread ones, then half-sent requests."""
    made_before = now - (limits.spared_when_full if is_full else limits.spared)
    others = [each for each in connections if not each.begun]
    for each in sorted(others, key=attrgetter("quiet_since")):
        is_unread = each.is_busy and each.quiet_since < now - limits.unread
        if is_unread or (not each.is_busy and each.accepted < made_before):
            yield each
    yield from (each for each in _half_sent(connections) if each.begun < made_before)


def _half_sent_surplus(connections: Iterable[C], limit: int, begun_before: float) -> Iterator[C]:
    """Return the oldest half-sent requests beyond their part of a limit."""
    half_sent = _half_sent(connections)
    too_many = max(0, len(half_sent) - max(1, int(limit * HALF_SENT)))
    return (each for each in half_sent[:too_many] if each.begun < begun_before)


def _too_large(connections: Iterable[C], limit: int) -> Iterator[C]:
    """Return the oldest half-sent requests until the bodies of the rest fit into a limit."""
    half_sent = _half_sent(connections)
    total = sum(each.size for each in half_sent)
    for each in half_sent:
        if total <= limit:
            return
        total -= each.size
        yield each


def _half_sent(connections: Iterable[C]) -> list[C]:
    return sorted((each for each in connections if each.begun), key=attrgetter("begun"))

"""The calls that one worker has open at once, by kind, and one caller's share of them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from service.rpc.errors import Reason, Refused


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Calls that may be open at once on one worker. One caller may have half of each kind.

    Attributes:
        streams: Subscribe.
        waiters: calls that wait for a revision or a state.
        unary: all other questions.
        health: `grpc.health.v1`, checks and watches.
        reflection: streams of `grpc.reflection.v1alpha`.
    """

    streams: int = 10_000
    waiters: int = 10_000
    unary: int = 1_000
    health: int = 1_000
    reflection: int = 100

    def total(self) -> int:
        """Calls of all kinds."""
        return self.streams + self.waiters + self.unary + self.health + self.reflection


class Places:
    """The places for calls of one kind; `len` tells how many are taken.

    Args:
        reason: of the refusal when no place is left.
        what: the calls, in the plural.
        most: places; half of them (at least one) for one caller.
    """

    def __init__(self, reason: Reason, what: str, most: int) -> None:
        self._reason = reason
        self._what = what
        self._most = most
        self._share = max(1, most // 2)
        self._taken = 0
        self._by_caller: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._taken

    @contextmanager
    def taken(self, caller: str) -> Iterator[None]:
        """Take a place for a caller, to be given back at the end.

        Raises:
            Refused: all places are taken, or the caller's share of them.
        """
        self.take(caller)
        try:
            yield
        finally:
            self.give_back(caller)

    def take(self, caller: str) -> None:
        """Take a place.

        Raises:
            Refused: as `taken`.
        """
        if self._taken >= self._most:
            raise Refused(
                self._reason, f"{self._most:,} {self._what} are open already", limit=self._most
            )
        if self._by_caller.get(caller, 0) >= self._share:
            raise Refused(
                self._reason,
                f"{self._share:,} {self._what} of this address are open already",
                limit=self._share,
            )
        self.take_anyway(caller)

    def take_anyway(self, caller: str) -> None:
        """Take a place even if none is left."""
        self._taken += 1
        self._by_caller[caller] += 1

    def give_back(self, caller: str) -> None:
        """Give a place back."""
        self._taken -= 1
        self._by_caller[caller] -= 1
        if not self._by_caller[caller]:
            del self._by_caller[caller]


class AllPlaces:
    """The places of one worker."""

    def __init__(self, limits: Limits) -> None:
        self.streams = Places(Reason.TOO_MANY_STREAMS, "streams", limits.streams)
        self.waiters = Places(Reason.TOO_MANY_WAITERS, "waiting calls", limits.waiters)
        self.unary = Places(Reason.TOO_MANY_CALLS, "calls", limits.unary)
        self.health = Places(Reason.TOO_MANY_CALLS, "health checks", limits.health)
        self.reflection = Places(Reason.TOO_MANY_CALLS, "reflection streams", limits.reflection)


def caller_of(peer: str) -> str:
    """The address of a gRPC peer such as `ipv4:10.0.0.7:51515`, without its port."""
    address, _, port = peer.rpartition(":")
    return address if port.isdigit() and address else peer

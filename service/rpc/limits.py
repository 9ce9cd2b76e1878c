"""The calls that one worker has open at once, by kind, and one caller's share of them."""

import asyncio
from collections import Counter
from ipaddress import IPv6Network
from urllib.parse import unquote
from weakref import WeakValueDictionary

import msgspec
from google.protobuf.descriptor import MethodDescriptor

from service.rpc.errors import Reason, Refused


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Calls that may be open at once on one worker. One caller may have half of each kind.

    Attributes:
        streams: Subscribe.
        waiters: calls that wait for a revision or a state.
        unary: all other questions.
        health: `grpc.health.v1`, checks and watches.
        reflection: streams of `grpc.reflection.v1alpha`.
        unread_bytes: of answers, other than a stream's, that clients have not read yet.
        stream_bytes: of messages of streams, likewise. What is sent shrinks as they are used up.
    """

    streams: int = 10_000
    waiters: int = 10_000
    unary: int = 1_000
    health: int = 1_000
    reflection: int = 100
    unread_bytes: int = 128 * 1024 * 1024
    stream_bytes: int = 64 * 1024 * 1024

    def total(self) -> int:
        """Calls of all kinds."""
        return self.streams + self.waiters + self.unary + self.health + self.reflection


class _Queue:
    """Those of one caller that wait for places."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.given_back = asyncio.Event()


class Places:
    """The places for calls, or bytes, of one kind; `len` tells how many are taken.

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
        self._queues: WeakValueDictionary[str, _Queue] = WeakValueDictionary()

    def __len__(self) -> int:
        return self._taken

    def left(self, caller: str) -> int:
        """Return how many a caller may still take."""
        return max(0, min(self._most - self._taken, self.left_of_share(caller)))

    def left_of_share(self, caller: str) -> int:
        """Return how many a caller may still take, whatever others have; below 0 if too many."""
        return self._share - self._by_caller.get(caller, 0)

    def take(self, caller: str, number: int = 1) -> None:
        """Take places for a caller.

        Raises:
            Refused: there are not that many left, in all or for the caller.
        """
        if self._taken + number > self._most:
            raise self._refused(self._most, "")
        if self._by_caller.get(caller, 0) + number > self._share:
            raise self._refused(self._share, " of this address")
        self._add(caller, number)

    def take_anyway(self, caller: str, number: int = 1) -> None:
        """Take places even if none is left."""
        self._add(caller, number)

    async def take_in_turn(self, caller: str, number: int) -> None:
        """Take places as soon as that many of the caller's share are left, or else all of it are.

        Does not mind what others have: they cannot keep anybody waiting.
        """
        queue = self._queues.setdefault(caller, _Queue())
        async with queue.turn:
            while self.left_of_share(caller) < min(number, self._share):
                queue.given_back.clear()
                await queue.given_back.wait()
            self._add(caller, number)

    def give_back(self, caller: str, number: int = 1) -> None:
        """Give places back."""
        self._add(caller, -number)
        if queue := self._queues.get(caller):
            queue.given_back.set()

    def _add(self, caller: str, number: int) -> None:
        self._taken += number
        self._by_caller[caller] += number
        if not self._by_caller[caller]:
            del self._by_caller[caller]

    def _refused(self, limit: int, whose: str) -> Refused:
        return Refused(self._reason, f"at most {limit:,} {self._what}{whose} at once", limit=limit)


class AllPlaces:
    """The places of one worker."""

    def __init__(self, limits: Limits) -> None:
        self.streams = Places(Reason.TOO_MANY_STREAMS, "streams", limits.streams)
        self.waiters = Places(Reason.TOO_MANY_WAITERS, "waiting calls", limits.waiters)
        self.unary = Places(Reason.TOO_MANY_CALLS, "calls", limits.unary)
        self.unread_bytes = Places(
            Reason.TOO_MANY_CALLS, "bytes of unread answers", limits.unread_bytes
        )
        self.stream_bytes = Places(
            Reason.TOO_MANY_STREAMS, "bytes of unread messages", limits.stream_bytes
        )
        health = Places(Reason.TOO_MANY_CALLS, "health checks", limits.health)
        reflection = Places(Reason.TOO_MANY_CALLS, "reflection streams", limits.reflection)
        self._others = {
            "Subscribe": self.streams,
            "WaitForState": self.waiters,
            "Health": health,
            "ServerReflection": reflection,
        }

    def of(self, method: MethodDescriptor) -> Places:
        """Return the places for the calls of a method."""
        of_service = self._others.get(method.containing_service.name, self.unary)
        return self._others.get(method.name, of_service)


def caller_of(peer: str) -> str:
    """Return the address of a gRPC peer such as `ipv4:10.0.0.7:51515`, without its port.

    Of an IPv6 address, return the network of 64 bits: whoever has one of its addresses has all.
    """
    address, _, port = peer.rpartition(":")
    if not port.isdigit():
        return peer
    family, _, host = unquote(address).partition(":")
    if family != "ipv6":
        return address
    return str(IPv6Network((host.strip("[]").partition("%")[0], 64), strict=False))

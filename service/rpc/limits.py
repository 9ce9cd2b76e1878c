"""The limits of one worker on open calls and bytes, and one caller's share of them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv6Network
from math import inf
from urllib.parse import unquote
from weakref import WeakValueDictionary

import msgspec
from google.protobuf.descriptor import MethodDescriptor

from service.rpc.errors import CallRefused, ErrorReason


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one worker. One caller may have half of the calls and bytes of each kind."""

    # Open calls: Subscribe; waits for a revision or state; other questions; grpc.health.v1;
    # streams of grpc.reflection.v1alpha.
    streams: int = 10_000
    waiters: int = 10_000
    unary: int = 1_000
    health: int = 1_000
    reflection: int = 100

    # Bytes that clients have not read yet: of answers, and of messages of streams.
    unread_bytes: int = 128 * 1024 * 1024
    stream_bytes: int = 64 * 1024 * 1024

    # Most and least bytes that a stream is sent in one go: a fraction of what its caller has left
    # of `stream_bytes`. Above 512 KiB the C library returns freed memory to the system each time.
    part_bytes: tuple[int, int] = (512 * 1024, 16 * 1024)
    part_divisor: int = 32

    batch_bytes: int = 2 * 1024 * 1024  # of sessions in a BatchGetSessionsResponse, about
    explained: int = 100_000  # callbacks with a cached explanation, of 200 bytes each

    # Seconds to wait for: the request of an open call; a revision or state, if the call has no
    # deadline; a count or a report, which reads every selected session; the journal, in
    # GetStatus; the view, after each step of a Forget.
    request_seconds: float = 10.0
    revision_seconds: float = 10.0
    state_seconds: float = 60.0
    count_seconds: float = 10.0
    backlog_seconds: float = 1.0
    forget_seconds: float = 60.0

    # Ranges of the silence after which a stream gets a checkpoint, and of the age at which it is
    # closed, so that load spreads again. With more streams than these, checkpoints are rarer.
    checkpoint_seconds: tuple[float, float] = (4.0, 4.8)
    checkpoint_streams: int = 2_500
    stream_seconds: tuple[float, float] = (27 * 60.0, 33 * 60.0)

    # The part of the feed in memory. A stream that is further behind reads the view.
    ring_rows: int = 20_000
    ring_bytes: int = 16 * 1024 * 1024

    round_seconds: tuple[float, float] = (0.0001, 0.1)  # between writes: for each stream; at most
    guard_seconds: float = 2.0  # between two checks of the view's file
    board_seconds: float = 1.0  # between two messages of a board
    board_sessions: int = 1_000_000  # that a board keeps; each about 430 bytes
    report_rows: int = 20_000
    lag_seconds: float = inf  # of the view behind the journal, beyond which health is NOT_SERVING
    stale_seconds: float = 30.0  # that a stream may last while health is NOT_SERVING
    handshake_seconds: float = 5.0  # of a connection
    # For calls to end once the server drains. One client that reads nothing uses all of it up.
    grace_seconds: float = 1.0

    def calls(self) -> int:
        """Return the number of calls of all kinds."""
        return self.streams + self.waiters + self.unary + self.health + self.reflection


class _Queue:
    """The tasks of one caller that wait for its share."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.released = asyncio.Event()


class Quota:
    """A number of calls, or bytes, that may be taken at once; `len` is the number taken.

    Args:
        reason: of the error when the quota is used up.
        unit: of the quota, in the plural.
        total: of all callers; half of it (at least one) for one caller.
    """

    def __init__(self, reason: ErrorReason, unit: str, total: int) -> None:
        self._reason = reason
        self._unit = unit
        self._total = total
        self._share = max(1, total // 2)
        self._taken = 0
        self._by_caller: Counter[str] = Counter()
        self._queues: WeakValueDictionary[str, _Queue] = WeakValueDictionary()

    def __len__(self) -> int:
        return self._taken

    def left(self, caller: str) -> int:
        """Return the number that a caller may still take."""
        return max(0, min(self._total - self._taken, self.left_of_share(caller)))

    def left_of_share(self, caller: str) -> int:
        """Return the rest of a caller's share, whatever others have taken; may be negative."""
        return self._share - self._by_caller.get(caller, 0)

    def take(self, caller: str, number: int = 1) -> None:
        """Take a number for a caller; raises CallRefused if the quota or its share is used up."""
        if self._taken + number > self._total:
            raise self._refused(self._total, "")
        if number > self.left_of_share(caller):
            raise self._refused(self._share, " of this address")
        self.take_anyway(caller, number)

    def take_anyway(self, caller: str, number: int = 1) -> None:
        """Take a number, even beyond the quota."""
        self._taken += number
        self._by_caller[caller] += number
        if not self._by_caller[caller]:
            del self._by_caller[caller]

    async def take_in_turn(self, caller: str, number: int) -> None:
        """Take a number once the caller's share has room for it, or is unused.

        Ignores the quota of all callers, so that no caller waits for another.
        """
        queue = self._queues.setdefault(caller, _Queue())
        async with queue.turn:
            while self.left_of_share(caller) < min(number, self._share):
                queue.released.clear()
                await queue.released.wait()
            self.take_anyway(caller, number)

    def give_back(self, caller: str, number: int = 1) -> None:
        self.take_anyway(caller, -number)
        if queue := self._queues.get(caller):
            queue.released.set()

    def _refused(self, limit: int, whose: str) -> CallRefused:
        return CallRefused(
            self._reason, f"at most {limit:,} {self._unit}{whose} at once", limit=limit
        )


class StreamBytes:
    """The bytes of streams' messages that clients have not read; parts shrink as they add up."""

    def __init__(self, limits: Limits) -> None:
        self._quota = Quota(
            ErrorReason.TOO_MANY_STREAMS, "bytes of unread messages", limits.stream_bytes
        )
        self._most, self._least = limits.part_bytes
        self._divisor = limits.part_divisor

    def part(self, caller: str) -> int:
        """Return the bytes that a stream of a caller is sent in one go, about."""
        part = self._quota.left(caller) // self._divisor
        # A power of two: streams with one filter share what is encoded for one of them.
        return max(self._least, min(self._most, 1 << part.bit_length() >> 1))

    def allow_read_ahead(self, caller: str) -> bool:
        """Return True if a stream may read the next part while it is sent one."""
        return self.part(caller) >= self._most

    def has_room(self, caller: str, size: int) -> bool:
        """Return True if a caller may be sent so many bytes now, always for small messages."""
        return size <= 2 * self._least or size <= self._quota.left_of_share(caller)

    @asynccontextmanager
    async def sending(self, caller: str, size: int) -> AsyncIterator[None]:
        """Wait for room, and count bytes as unread until the end of the block."""
        if self.has_room(caller, size):
            self._quota.take_anyway(caller, size)
        else:
            await self._quota.take_in_turn(caller, size)
        try:
            yield
        finally:
            self._quota.give_back(caller, size)


class Quotas:
    """The quotas of one worker."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.stream_bytes = StreamBytes(limits)
        self.streams = Quota(ErrorReason.TOO_MANY_STREAMS, "streams", limits.streams)
        self.waiters = Quota(ErrorReason.TOO_MANY_WAITERS, "waiting calls", limits.waiters)
        self.unary = Quota(ErrorReason.TOO_MANY_CALLS, "calls", limits.unary)
        self.unread_bytes = Quota(
            ErrorReason.TOO_MANY_CALLS, "bytes of unread answers", limits.unread_bytes
        )
        self._others = {
            "Subscribe": self.streams,
            "WatchBoard": self.streams,
            "WaitForState": self.waiters,
            "Health": Quota(ErrorReason.TOO_MANY_CALLS, "health checks", limits.health),
            "ServerReflection": Quota(
                ErrorReason.TOO_MANY_CALLS, "reflection streams", limits.reflection
            ),
        }

    def of(self, method: MethodDescriptor) -> Quota:
        """Return the quota for the calls of a method."""
        of_service = self._others.get(method.containing_service.name, self.unary)
        return self._others.get(method.name, of_service)


def caller_of(peer: str) -> str:
    """Return the address of a gRPC peer such as `ipv4:10.0.0.7:51515`, without its port.

    For IPv6, return the network of 64 bits: one host may use all of its addresses.
    """
    address, _, port = peer.rpartition(":")
    if not port.isdigit():
        return peer
    family, _, host = unquote(address).partition(":")
    if family != "ipv6":
        return address
    return str(IPv6Network((host.strip("[]").partition("%")[0], 64), strict=False))

"""Limits of the gateway in bytes, seconds and connections."""

from dataclasses import dataclass

MAX_BODY = 256 * 1024
"""Bytes of a body; Desk's own are a few KiB."""

MAX_HEAD = 16 * 1024
"""Bytes of a head."""

BUDGET = 1.5
"""Seconds from the arrival of a request to its answer. Desk waits for about 2 s
(docs/callbacks.md); the rest is for the network and a proxy."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the server. Times are in seconds.

    Attributes:
        connections: at once, as far as there are file descriptors; more wait in the kernel.
        per_address: of them from one address; None: half of them, 0: all of them.
        idle: silence after which a connection is closed.
        unread: the same while an answer is due: the client does not read.
        receive: time for a request to arrive, from its first byte to its last.
        linger: time in which bytes behind a refused request are read and dropped, so that its
            sender can read the answer (RFC 9112, 9.6).
        spared: age below which a connection or a half-sent request keeps its room.
        spared_when_full: the same while not even the reserve has room.
        half_sent_bytes: bytes of all bodies that have not arrived in full.
        turn: pause of the event loop while nothing happens.
        tick: pause between two checks of the limits above.
        answering: time for answers before the event loop reads from all connections again.
        grace: time after a stop for requests that have begun, or cross with the stop.
        drain: time after a stop until all connections are closed.
    """

    connections: int = 1024
    per_address: int | None = None
    idle: float = 75.0
    unread: float = 2.0
    receive: float = 10.0
    linger: float = 2.0
    spared: float = 1.0
    spared_when_full: float = 0.25
    half_sent_bytes: int = 32 * 1024 * 1024
    turn: float = 1.0
    tick: float = 0.05
    answering: float = 0.02
    grace: float = 0.5
    drain: float = 5.0

    @property
    def of_one_address(self) -> int:
        if self.per_address is None:
            return max(1, self.connections // 2)
        return self.per_address or self.connections

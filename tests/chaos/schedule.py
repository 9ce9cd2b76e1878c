"""The faults of one schedule, drawn from its seed alone."""

from random import Random
from typing import NamedTuple

SECONDS = 8.0
"""Seconds of load; the faults begin within."""

FIRST, LAST = 0.5, SECONDS - 1
"""Seconds after which the first fault may begin, and the last one."""

STARTS_WITHIN = 1.0
"""Seconds that a part may need to start again."""

SERVERS = ("nats-1", "nats-2", "nats-3")
GATEWAYS = ("gateway-1", "gateway-2")
SERVICES = ("service-1", "service-2")
PARTS = (*SERVERS, *GATEWAYS, *SERVICES)

LEADER = "leader"
"""The server that leads the stream when the fault begins."""

FAULTS = {
    "kill": (*PARTS, LEADER, LEADER),
    "freeze": (*PARTS, LEADER),
    "hang": (*PARTS, LEADER, LEADER),
    "stop": PARTS,
    "lame-duck": (*SERVERS, LEADER),
    "kill-child": (*GATEWAYS, *SERVICES),
    "cut": (*PARTS, LEADER),
    "cut-one": (*PARTS, LEADER),
    "isolate": (*PARTS, LEADER),
    "drop": (*PARTS, LEADER, LEADER),
    "fill-disk": GATEWAYS,
    "lose-view": SERVICES,
}
"""Kinds of faults, and the parts that may have them.

kill: SIGKILL to all processes of the part, which is started again later. kill-child: SIGKILL to
one of its processes. freeze: SIGSTOP, SIGCONT later. hang: SIGSTOP, and SIGKILL before what it was
sent meanwhile is read; then a start. stop: SIGTERM, and a start later. lame-duck: the server takes
no more connections and leads nothing, as before an upgrade; SIGKILL and a start later. cut: all of
its connections; cut-one: the oldest of each way. isolate: nothing passes on its connections for a
while, and then all of it. drop: the same, and what was sent meanwhile is lost with the connections.
fill-disk: files of the gateway, of which only the spool grows, cannot grow for a while. lose-view:
a snapshot, SIGKILL, and a start without the view later.
"""

RATES = (30.0, 60.0, 150.0)
"""Callbacks a second."""

LASTING = (0.3, 1.0, 2.0, 4.0)
"""Seconds that a fault lasts, about."""

TWO_AT_ONCE = 0.4
"""Share of faults that begin together with the one before."""


MAJORITY_DIES = 0.3
"""Share of schedules in which two or all three servers are killed at once."""


class Fault(NamedTuple):
    """A fault that begins `at` seconds after the load, and is healed `lasts` seconds later."""

    at: float
    kind: str
    part: str
    lasts: float

    def meets(self, other: "Fault") -> bool:
        """Return True if the part has the other fault as well."""
        is_earlier = self.at < other.at
        first, second = (self, other) if is_earlier else (other, self)
        return self.part == other.part and first.at + first.lasts + STARTS_WITHIN > second.at


class Schedule(NamedTuple):
    """The plan of a schedule.

    Attributes:
        seed: of the faults, of the load and of the subscriber's hops.
        faults: in the order of their beginnings.
        retry_for: seconds during which the load repeats a callback that is not acknowledged. Few:
            then some are given up, and may be there or not.
        rate: callbacks a second.
    """

    seed: int
    faults: tuple[Fault, ...]
    retry_for: float
    rate: float


def draw(seed: int) -> Schedule:
    """Return the schedule of a seed. No part has two faults at once, but the leader may."""
    random = Random(f"{seed}/schedule")
    faults: list[Fault] = []
    if random.random() < MAJORITY_DIES:
        at = random.uniform(FIRST, LAST)
        names = random.sample(SERVERS, random.choice((2, 3)))
        faults += [Fault(at, "kill", name, _duration(random)) for name in names]
    for _ in range(random.randint(3, 8)):
        is_together = faults and random.random() < TWO_AT_ONCE
        at = random.choice(faults).at if is_together else random.uniform(FIRST, LAST)
        kind = random.choice(tuple(FAULTS))
        fault = Fault(at, kind, random.choice(FAULTS[kind]), _duration(random))
        if not any(map(fault.meets, faults)):
            faults.append(fault)
    retry_for = random.choice((1.0, 60.0, 60.0))
    return Schedule(seed, tuple(sorted(faults)), retry_for, random.choice(RATES))


def _duration(random: Random) -> float:
    return random.choice(LASTING) * random.uniform(0.7, 1.3)

"""The faults of one schedule, drawn from its seed alone."""

from random import Random
from typing import NamedTuple

SECONDS = 8.0
"""Seconds of load; the faults begin within."""

FIRST = 0.5
"""Seconds before the first fault."""

SERVERS = ("nats-1", "nats-2", "nats-3")
GATEWAYS = ("gateway-1", "gateway-2")
SERVICES = ("service-1", "service-2")
PARTS = (*SERVERS, *GATEWAYS, *SERVICES)

LEADER = "leader"
"""The server that leads the stream when the fault begins."""

FAULTS = {
    "kill": (*PARTS, LEADER, LEADER),
    "freeze": (*PARTS, LEADER, LEADER),
    "stop": PARTS,
    "kill-child": (*GATEWAYS, *SERVICES),
    "cut": (*PARTS, LEADER),
    "cut-one": (*PARTS, LEADER),
    "isolate": (*PARTS, LEADER, LEADER),
    "fill-disk": GATEWAYS,
}
"""Kinds of faults, and the parts that may have them.

kill: SIGKILL to all processes of the part, which is started again later. kill-child: SIGKILL to
one of its processes. freeze: SIGSTOP, SIGCONT later. stop: SIGTERM, and a start later. cut: all of
its connections, cut-one: the oldest of each way. isolate: nothing passes on its connections for a
while. fill-disk: files of the gateway, of which only the spool grows, cannot grow for a while.
"""

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


class Schedule(NamedTuple):
    """The plan of a schedule.

    Attributes:
        seed: of the faults, of the load and of the subscriber's hops.
        faults: in the order of their beginnings.
        retry_for: seconds during which the load repeats a callback that is not acknowledged. Few:
            then some are given up, and may be there or not.
    """

    seed: int
    faults: tuple[Fault, ...]
    retry_for: float


def draw(seed: int) -> Schedule:
    """Return the schedule of a seed."""
    random = Random(f"{seed}/schedule")
    faults: list[Fault] = []
    for _ in range(random.randint(3, 8)):
        at = random.uniform(FIRST, SECONDS - 1)
        if faults and random.random() < TWO_AT_ONCE:
            at = faults[-1].at
        kind = random.choice(tuple(FAULTS))
        faults.append(Fault(at, kind, random.choice(FAULTS[kind]), _duration(random)))
    if random.random() < MAJORITY_DIES:
        at = random.uniform(FIRST, SECONDS - 1)
        names = random.sample(SERVERS, random.choice((2, 3)))
        faults += [Fault(at, "kill", name, _duration(random)) for name in names]
    return Schedule(seed, tuple(sorted(faults)), random.choice((1.0, 60.0, 60.0)))


def _duration(random: Random) -> float:
    return random.choice(LASTING) * random.uniform(0.7, 1.3)

"""A day at a contact centre: visitors arrive, ask a chatbot, wait in one line, talk to agents.

A simulation by events: waits, abandonment and the service level are not drawn at random, they
result from the arrivals, the number of agents and the length of their talks. Times are milliseconds
since midnight.
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec

from simulator import texts
from simulator.callbacks import Happening
from simulator.scripts import (
    CHATBOT,
    CLOSING,
    ENDED,
    FORWARDED,
    NEW,
    QUEUED,
    TRANSFERRING,
    WITH_AGENT,
)

SECOND, HOUR = 1_000, 3_600_000

ARRIVALS = (4, 2, 1, 1, 1, 2, 5, 12, 30, 48, 56, 50, 38, 40, 50, 52, 46, 40, 36, 38, 44, 36, 22, 10)
"""Weights of the hours of a day: a peak before noon, one after, and one in the evening."""

SHIFTS = ((8 * HOUR, 16 * HOUR), (13 * HOUR, 22 * HOUR))
"""Start and end; of five agents three have the first one."""

VISITS_PER_AGENT = 200
"""Visits a day for which one agent is just about enough."""

SLOTS = 2
"""Sessions that an agent has at once, at most."""

LONGEST_LINE = 40
"""Waiting visitors; the next ones are told that no agent is online."""

BOT_ONLY = 0.42  # share of visitors whom the chatbot can help
FORWARDED_ON = 0.08
NUDGES = 0.4  # share of the waiting who write while they wait
RATED = 0.45
COMES_BACK = 0.12
PATIENCE = 240 * SECOND  # on average
TIMEOUT = 120 * SECOND

TALK_ENDS = {
    "SessionAgentEnd": 55,
    "SessionUserEnd": 35,
    "SessionUserTimeoutEnd": 8,
    "SessionAgentTimeoutEnd": 2,
}
"""Weights of the ends of a talk."""


class Agent(msgspec.Struct):
    """An agent.

    Attributes:
        pace: time taken for a reply, 1 on average.
        stars: weights of the ratings of 1 to 5 stars.
        load: sessions that are with the agent now.
    """

    name: str
    begins: int
    ends: int
    pace: float
    stars: tuple[int, ...]
    load: int = 0

    def is_free(self, at: int) -> bool:
        return self.begins <= at < self.ends and self.load < SLOTS


def agents_of(random: Random, count: int) -> list[Agent]:
    """Return agents that differ in their pace and in the ratings that they get."""
    return [
        Agent(
            name=texts.agent(number),
            begins=SHIFTS[number % 5 % 2][0],
            ends=SHIFTS[number % 5 % 2][1],
            pace=random.uniform(0.7, 1.5),
            stars=random.choice(((1, 1, 3, 8, 12), (2, 3, 6, 8, 5), (4, 3, 4, 4, 3))),
        )
        for number in range(count)
    ]


class Visit:
    """A session under way.

    Attributes:
        happenings: its events, in ascending order of time; no two at the same.
        is_waiting: in line, and nobody has been found yet.
    """

    def __init__(self, random: Random, user: str) -> None:
        self.random = random
        self.user = user
        self.happenings: list[Happening] = []
        self.state = NEW
        self.is_waiting = False

    def happen(self, event: str, at: float, to: str | None = None, **fields: Any) -> int:
        """Add an event; return its time."""
        if self.happenings:
            at = max(at, self.happenings[-1].at + 1)
        before, self.state = self.state, to or self.state
        self.happenings.append(
            Happening(event, round(at), before=before, after=self.state, **fields)
        )
        return self.happenings[-1].at

    def end(self, at: float, event: str = "", **fields: Any) -> int:
        """Add an end, for a reason or for none; return its time."""
        if event:
            at = self.happen(event, at, CLOSING, **fields)
        return self.happen("SessionEnd", at + self.random.uniform(0.1, 1) * SECOND, ENDED)

    def seconds(self, least: float, most: float) -> float:
        return self.random.uniform(least, most) * SECOND


class Centre:
    """The line and the agents. `run` fills the visits."""

    def __init__(self, agents: Sequence[Agent]) -> None:
        self._agents = agents
        self._line: deque[Visit] = deque()
        self._planned: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = 0
        for begins, ends in SHIFTS:
            self._at(begins, self._call_next)
            self._at(ends, self._close)

    def expect(self, visit: Visit, at: float) -> None:
        """Plan a visitor's arrival."""
        self._at(at, lambda at: self._arrive(visit, at))

    def run(self) -> None:
        """Run the simulation until all visitors have left."""
        while self._planned:
            at, _, act = heapq.heappop(self._planned)
            act(at)

    def _at(self, at: float, act: Callable[[float], None]) -> None:
        self._count += 1  # breaks ties
        heapq.heappush(self._planned, (at, self._count, act))

    # ---- With the chatbot ----

    def _arrive(self, visit: Visit, at: float) -> None:
        visit.happen("SessionBegin", at, CHATBOT)
        for _ in range(visit.random.randint(1, 4)):
            at = visit.happen("ChatBot.UserSendMsg", at + visit.seconds(2, 25))
            at = visit.happen("ChatBot.RobotSendMsg", at + visit.seconds(0.4, 2))
        if visit.random.random() < BOT_ONLY:
            self._leave_chatbot(visit, at)
        else:
            self._at(at + visit.seconds(3, 20), lambda at: self._ask_for_agent(visit, at))

    def _leave_chatbot(self, visit: Visit, at: float) -> None:
        ends = ("SessionUserEnd", "SessionUserTimeoutEnd", "")
        event = visit.random.choices(ends, (5, 4, 1))[0]
        idle = TIMEOUT if "Timeout" in event else visit.seconds(5, 60)
        visit.end(at + idle, event)

    # ---- In line ----

    def _ask_for_agent(self, visit: Visit, at: float) -> None:
        visit.happen("TransferringToHuman", at, TRANSFERRING)
        agent = self._free_agent(at)
        if agent:
            self._assign(visit, agent, at)
        elif len(self._line) >= LONGEST_LINE or not self._is_open(at):
            self._send_back(visit, at + 200)
        else:
            visit.happen("TransferringToHumanWait", at + 200, QUEUED)
            visit.is_waiting = True
            self._line.append(visit)
            patience = visit.random.expovariate(1 / PATIENCE)
            self._at(at + 200 + patience, lambda at: self._give_up(visit, at))
            if visit.random.random() < NUDGES:
                self._at(at + visit.seconds(20, 90), lambda at: self._nudge(visit, at))

    def _is_open(self, at: float) -> bool:
        return any(agent.begins <= at < agent.ends for agent in self._agents)

    def _nudge(self, visit: Visit, at: float) -> None:
        if visit.is_waiting:
            visit.happen("Human.UserSendMsg", at)

    def _give_up(self, visit: Visit, at: float) -> None:
        if visit.is_waiting:
            self._line.remove(visit)
            visit.is_waiting = False
            events = ("SessionUserEnd", "SessionPendingAutoFinishEnd")
            visit.end(at, visit.random.choices(events, (6, 4))[0])

    def _send_back(self, visit: Visit, at: float) -> None:
        at = visit.happen("NoAgentOnline", at, CHATBOT)
        at = visit.happen("ChatBot.RobotSendMsg", at + visit.seconds(0.4, 2))
        self._leave_chatbot(visit, at)

    def _close(self, at: float) -> None:
        if not self._is_open(at):
            while self._line:
                visit = self._line.popleft()
                visit.is_waiting = False
                self._send_back(visit, at)

    # ---- With an agent ----

    def _free_agent(self, at: float, other_than: Agent | None = None) -> Agent | None:
        free = (a for a in self._agents if a.is_free(round(at)) and a is not other_than)
        return min(free, key=lambda agent: agent.load, default=None)

    def _call_next(self, at: float) -> None:
        while self._line and (agent := self._free_agent(at)):
            self._assign(self._line.popleft(), agent, at)

    def _assign(self, visit: Visit, agent: Agent, at: float) -> None:
        visit.is_waiting = False
        agent.load += 1
        self._at(at + visit.seconds(1.5, 6), lambda at: self._join(visit, agent, at))

    def _join(self, visit: Visit, agent: Agent, at: float) -> None:
        at = visit.happen("TransferToHumanSuccess", at, WITH_AGENT, agent=agent.name)
        self._talk(visit, agent, at, rounds=1 + min(12, round(visit.random.expovariate(1 / 4))))

    def _talk(self, visit: Visit, agent: Agent, at: float, rounds: int) -> None:
        name = agent.name
        for _ in range(rounds):
            gap = visit.random.lognormvariate(3.3, 0.6) * SECOND * agent.pace
            at = visit.happen("Human.AgentSendMsg", at + gap, WITH_AGENT, agent=name)
            gap = visit.random.lognormvariate(3.4, 0.7) * SECOND
            at = visit.happen("Human.UserSendMsg", at + gap, agent=name)
        ends = self._forward if visit.random.random() < FORWARDED_ON else self._finish
        self._at(at + visit.seconds(5, 40), lambda at: ends(visit, agent, at))

    def _forward(self, visit: Visit, agent: Agent, at: float) -> None:
        other = self._free_agent(at, other_than=agent)
        if other is None:
            self._finish(visit, agent, at)
            return
        other.load += 1
        visit.happen("AgentForward", at, FORWARDED, agent=other.name, previous_agent=agent.name)
        self._release(agent, at)
        event = visit.random.choice(("TransferToHumanSuccess", "Human.AgentSendMsg"))
        at = visit.happen(event, at + visit.seconds(3, 40), WITH_AGENT, agent=other.name)
        self._talk(visit, other, at, rounds=visit.random.randint(1, 3))

    def _finish(self, visit: Visit, agent: Agent, at: float) -> None:
        random = visit.random
        event = random.choices(tuple(TALK_ENDS), tuple(TALK_ENDS.values()))[0]
        if "Timeout" in event:
            at += TIMEOUT
        at = visit.end(at, event, agent=agent.name)
        if random.random() < RATED:
            stars = random.choices(range(1, 6), agent.stars)[0]
            rated_at = at + visit.seconds(2, 60)
            visit.happen("SatisfactionSelected", rated_at, agent=agent.name, stars=stars)
        self._at(at, lambda at: self._release(agent, at))

    def _release(self, agent: Agent, at: float) -> None:
        agent.load -= 1
        self._call_next(at)


def visits_of_a_day(seed: int, count: int, agents: int) -> list[Visit]:
    """Return the visits of a day, in order of their beginning.

    Args:
        seed: of all that is random.
        count: visits.
        agents: at work over the day; more, and visitors wait less.
    """
    random = Random(f"{seed}/day")  # noqa: S311 (repeatable, not secret)
    hours = random.choices(range(24), ARRIVALS, k=count)
    arrivals = sorted((hour + random.random()) * HOUR for hour in hours)
    centre = Centre(agents_of(random, agents))
    visits: list[Visit] = []
    for number, at in enumerate(arrivals):
        own = Random(f"{seed}/day/{number}")  # noqa: S311
        earlier = visits and random.random() < COMES_BACK
        user = random.choice(visits).user if earlier else f"user_{own.getrandbits(40):x}"
        visits.append(Visit(own, user))
        centre.expect(visits[-1], at)
    centre.run()
    return visits

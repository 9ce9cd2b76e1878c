"""The live board: sums that each session contributes to, and is taken out of again.

Pure: no I/O, no clock. Keeps what each session has contributed, so that its next state, or its
absence, replaces that.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from heapq import nsmallest
from typing import NamedTuple

from callback.catalogue import HANDLED, State
from desk.v1 import board_service_pb2 as pb
from service.figures import Offer, offer, unanswered_since, waiting_since
from service.records import STATES, timestamp
from service.session import Session
from service.tally import Tally, Thresholds, merged

MAX_GROUPS = 1_000
MAX_OF_AGENT = 20
"""Sessions that are listed of one agent."""

Key = tuple[int, str]
"""SDKAppID, session id."""


class Day(NamedTuple):
    """Bounds of a day in ms, the end exclusive."""

    start: int
    end: int


class BoardSelection(NamedTuple):
    """The board that is asked for; empty = all."""

    sdk_app_ids: frozenset[int]
    channel_types: frozenset[str]
    thresholds: Thresholds
    max_listed: int

    def selects(self, sdk_app_id: int, channel_type: str) -> bool:
        return (not self.sdk_app_ids or sdk_app_id in self.sdk_app_ids) and (
            not self.channel_types or channel_type in self.channel_types
        )


class Contribution(NamedTuple):
    """The part of a session that the board shows.

    Attributes:
        offer: if it was offered on the board's day.
        offered_at: if it was offered at any time.
    """

    channel_type: str
    state: State
    client_user_id: str
    agent_id: str
    state_since: int
    waiting_since: int | None
    unanswered_since: int | None
    offered_at: int | None
    offer: Offer | None
    is_forwarded: bool


def contribution(session: Session, day: Day) -> Contribution | None:
    """Return the contribution of a session; None if it is over and not of the day."""
    offered = offer(session)
    is_of_day = offered is not None and day.start <= offered.offered_at < day.end
    if session.state is State.ENDED and not is_of_day:
        return None
    return Contribution(
        session.channel_type,
        session.state,
        session.client_user_id,
        session.agent_id,
        session.state_since or 0,
        waiting_since(session),
        unanswered_since(session),
        offered.offered_at if offered else None,
        offered if is_of_day else None,
        session.forwards > 0,
    )


class _Cell:
    """The sums of an app and a channel."""

    def __init__(self) -> None:
        self.states: Counter[State] = Counter()
        self.today = Tally()
        self.waiting: dict[Key, int] = {}
        self.unanswered: dict[Key, int] = {}
        self.by_agent: dict[str, set[Key]] = {}

    def __bool__(self) -> bool:
        return any(self.states.values()) or bool(self.today)

    def add(self, key: Key, part: Contribution) -> None:
        self.states[part.state] += 1
        if part.offer:
            self.today.add(part.offer, is_forwarded=part.is_forwarded)
        if part.waiting_since is not None:
            self.waiting[key] = part.waiting_since
        if part.unanswered_since is not None:
            self.unanswered[key] = part.unanswered_since
        if part.state in HANDLED:
            self.by_agent.setdefault(part.agent_id, set()).add(key)

    def remove(self, key: Key, part: Contribution) -> None:
        self.states[part.state] -= 1
        if part.offer:
            self.today.remove(part.offer, is_forwarded=part.is_forwarded)
        self.waiting.pop(key, None)
        self.unanswered.pop(key, None)
        if part.state in HANDLED:
            self.by_agent[part.agent_id].discard(key)
            if not self.by_agent[part.agent_id]:
                del self.by_agent[part.agent_id]


class LiveSums:
    """The sums of all sessions that are open, or of a day."""

    def __init__(self, day: Day) -> None:
        self.day = day
        self._parts: dict[Key, Contribution] = {}
        self._cells: dict[tuple[int, str], _Cell] = {}

    def __len__(self) -> int:
        return len(self._parts)

    def put(self, key: Key, session: Session | None) -> None:
        """Replace what a session has contributed; None if it is gone."""
        before = self._parts.get(key)
        after = contribution(session, self.day) if session else None
        if before == after:
            return
        if before:
            self._take_away(key, before)
        if after:
            self._parts[key] = after
            self._cells.setdefault((key[0], after.channel_type), _Cell()).add(key, after)

    def _take_away(self, key: Key, part: Contribution) -> None:
        del self._parts[key]
        cell = self._cells[key[0], part.channel_type]
        cell.remove(key, part)
        if not cell:
            del self._cells[key[0], part.channel_type]

    def board(self, selection: BoardSelection, time_zone: str) -> pb.Board:
        """Make the board; the same for equal sessions, however they came."""
        cells = {
            place: cell for place, cell in sorted(self._cells.items()) if selection.selects(*place)
        }
        thresholds, most = selection.thresholds, selection.max_listed
        agents = _agents(cells)
        return pb.Board(
            day_start=timestamp(self.day.start),
            day_end=timestamp(self.day.end),
            time_zone=time_zone,
            thresholds=thresholds.message(),
            total=_figures(cells.values(), thresholds),
            groups=[
                pb.BoardGroup(
                    sdk_app_id=app, channel_type=channel, figures=_figures([cell], thresholds)
                )
                for (app, channel), cell in list(cells.items())[:MAX_GROUPS]
            ],
            longest_waiting=[
                self._session(key, since, breach_after=thresholds.answer_within)
                for since, key in _first(most, (cell.waiting for cell in cells.values()))
            ],
            longest_unanswered=[
                self._session(key, since)
                for since, key in _first(most, (cell.unanswered for cell in cells.values()))
            ],
            agents=[
                self._agent(agent, keys)
                for agent, keys in nsmallest(
                    most, agents.items(), key=lambda item: (-len(item[1]), item[0])
                )
            ],
            agent_count=len(agents),
        )

    def _session(self, key: Key, since: int, breach_after: int | None = None) -> pb.BoardSession:
        part = self._parts[key]
        shown = pb.BoardSession(
            sdk_app_id=key[0],
            session_id=key[1],
            state=STATES[part.state],
            channel_type=part.channel_type,
            client_user_id=part.client_user_id,
            agent_id=part.agent_id,
            since=timestamp(since),
        )
        if breach_after is not None:
            asked = since if part.offered_at is None else part.offered_at
            shown.breaches_at.CopyFrom(timestamp(asked + breach_after))
        return shown

    def _agent(self, agent: Key, keys: list[Key]) -> pb.BoardAgent:
        since = {key: self._parts[key].state_since for key in keys}
        return pb.BoardAgent(
            sdk_app_id=agent[0],
            agent_id=agent[1],
            sessions=len(keys),
            unanswered=sum(self._parts[key].unanswered_since is not None for key in keys),
            listed=[self._session(key, time) for time, key in _first(MAX_OF_AGENT, [since])],
        )


def _figures(cells: Iterable[_Cell], thresholds: Thresholds) -> pb.BoardFigures:
    cells = list(cells)
    states: Counter[State] = Counter()
    for cell in cells:
        states.update(cell.states)
    waiting = [time for cell in cells for time in cell.waiting.values()]
    unanswered = [time for cell in cells for time in cell.unanswered.values()]
    return pb.BoardFigures(
        states=[
            pb.StateCount(state=number, sessions=states[state])
            for state, number in STATES.items()
            if states[state] and state is not State.ENDED
        ],
        waiting=len(waiting),
        longest_waiting_since=timestamp(min(waiting)) if waiting else None,
        unanswered=len(unanswered),
        longest_unanswered_since=timestamp(min(unanswered)) if unanswered else None,
        today=merged(cell.today for cell in cells).figures(thresholds),
    )


def _agents(cells: Mapping[tuple[int, str], _Cell]) -> dict[Key, list[Key]]:
    """Return the sessions of each agent, over all channels."""
    found: dict[Key, list[Key]] = {}
    for (app, _), cell in cells.items():
        for agent, keys in cell.by_agent.items():
            found.setdefault((app, agent), []).extend(keys)
    return found


def _first(most: int, times: Iterable[Mapping[Key, int]]) -> list[tuple[int, Key]]:
    """Return the earliest times with their sessions; equal times by key."""
    return nsmallest(most, ((time, key) for each in times for key, time in each.items()))

"""The live board: sums over sessions, which each change of a session corrects.

Keeps the contribution of each session, so that a new one can replace it. Pure: no I/O, no clock.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from heapq import nsmallest
from sys import intern
from typing import NamedTuple, TypeVar

from callback.catalogue import HANDLED, State
from desk.v1 import board_service_pb2 as pb
from service.figures import Offer, Result, offer, unanswered_since, waiting_since
from service.records import STATES, timestamp
from service.session import AgentKey, Session, SessionKey
from service.tally import Tally, Thresholds, merged

MAX_GROUPS = 1_000
MAX_OF_AGENT = 20
"""Sessions that are listed of one agent."""

MAX_SILENCE = 24 * 3_600_000
"""Milliseconds before the start of the day. An open session whose last event is older counts as
over: its end was lost, and it would be the longest wait for ever."""

CellKey = tuple[int, str]
"""SDKAppID and channel type of a cell."""

Part = TypeVar("Part", "Served", "Open")
"""A part of the contribution of a session to its cell."""


class Day(NamedTuple):
    """Bounds of a day in ms, the end exclusive."""

    start: int
    end: int


class BoardSelection(NamedTuple):
    """The sessions of a board, and how it is shown; empty = all."""

    sdk_app_ids: frozenset[int]
    channel_types: frozenset[str]
    thresholds: Thresholds
    max_listed: int

    def selects(self, sdk_app_id: int, channel_type: str) -> bool:
        return (not self.sdk_app_ids or sdk_app_id in self.sdk_app_ids) and (
            not self.channel_types or channel_type in self.channel_types
        )


class Served(NamedTuple):
    """A session that was offered to the agents on the board's day."""

    channel_type: str
    offer: Offer

    def add_to(self, cell: "_Cell", _key: SessionKey) -> None:
        cell.today.add(self.offer)

    def remove_from(self, cell: "_Cell", _key: SessionKey) -> None:
        cell.today.remove(self.offer)


class Open(NamedTuple):
    """A session that is not over.

    Attributes:
        asked_at: time (ms) of the first request for an agent, while it has no result; else None.
    """

    channel_type: str
    state: State
    client_user_id: str
    agent_id: str
    state_since: int
    waiting_since: int | None
    unanswered_since: int | None
    asked_at: int | None

    def add_to(self, cell: "_Cell", key: SessionKey) -> None:
        cell.states[self.state] += 1
        if self.waiting_since is not None:
            cell.waiting[key] = self.waiting_since
        if self.unanswered_since is not None:
            cell.unanswered[key] = self.unanswered_since
        if self.state in HANDLED:
            cell.by_agent.setdefault(self.agent_id, set()).add(key)

    def remove_from(self, cell: "_Cell", key: SessionKey) -> None:
        cell.states[self.state] -= 1
        cell.waiting.pop(key, None)
        cell.unanswered.pop(key, None)
        if self.state in HANDLED:
            cell.by_agent[self.agent_id].discard(key)
            if not cell.by_agent[self.agent_id]:
                del cell.by_agent[self.agent_id]


class _Cell:
    """The sums of an app and a channel."""

    def __init__(self) -> None:
        self.states: Counter[State] = Counter()
        self.today = Tally()
        self.waiting: dict[SessionKey, int] = {}
        self.unanswered: dict[SessionKey, int] = {}
        self.by_agent: dict[str, set[SessionKey]] = {}

    def __bool__(self) -> bool:
        return any(self.states.values()) or bool(self.today)


def _served(session: Session, offered: Offer | None, day: Day) -> Served | None:
    if offered is None or not day.start <= offered.offered_at < day.end:
        return None
    return Served(intern(session.channel_type), offered)


def _open(session: Session, offered: Offer | None, day: Day) -> Open | None:
    silent_since = session.last_event_at or 0
    if session.state is State.ENDED or silent_since < day.start - MAX_SILENCE:
        return None
    return Open(
        intern(session.channel_type),
        session.state,
        session.client_user_id,
        session.agent_id,
        session.state_since or 0,
        waiting_since(session),
        unanswered_since(session),
        offered.offered_at if offered and offered.result is Result.WAITING else None,
    )


class LiveSums:
    """The sums of all sessions that are open, or of a day."""

    def __init__(self, day: Day) -> None:
        self.day = day
        self._served: dict[SessionKey, Served] = {}
        self._open: dict[SessionKey, Open] = {}
        self._cells: dict[CellKey, _Cell] = {}

    def __len__(self) -> int:
        return len(self._served) + len(self._open)

    def put(self, key: SessionKey, session: Session | None) -> None:
        """Replace the contribution of a session; None if it was forgotten."""
        served = opened = None
        if session:
            offered = offer(session)
            served, opened = _served(session, offered, self.day), _open(session, offered, self.day)
        self._replace(self._served, key, served)
        self._replace(self._open, key, opened)

    def _replace(self, parts: dict[SessionKey, Part], key: SessionKey, after: Part | None) -> None:
        before = parts.get(key)
        if before == after:  # most often; and to remove one wait of many is slow
            return
        if before:
            del parts[key]
            place = key[0], before.channel_type
            before.remove_from(self._cells[place], key)
            if not self._cells[place]:
                del self._cells[place]
        if after:
            parts[key] = after
            after.add_to(self._cells.setdefault((key[0], after.channel_type), _Cell()), key)

    def board(self, selection: BoardSelection, time_zone: str) -> pb.Board:
        """Make the board. It depends on the sessions, not on the order of their changes."""
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
                for since, key in _earliest(most, (cell.waiting for cell in cells.values()))
            ],
            longest_unanswered=[
                self._session(key, since)
                for since, key in _earliest(most, (cell.unanswered for cell in cells.values()))
            ],
            agents=[
                self._agent(agent, keys)
                for agent, keys in nsmallest(
                    most, agents.items(), key=lambda item: (-len(item[1]), item[0])
                )
            ],
            agent_count=len(agents),
        )

    def _session(
        self, key: SessionKey, since: int, breach_after: int | None = None
    ) -> pb.BoardSession:
        part = self._open[key]
        shown = pb.BoardSession(
            sdk_app_id=key[0],
            session_id=key[1],
            state=STATES[part.state],
            channel_type=part.channel_type,
            client_user_id=part.client_user_id,
            agent_id=part.agent_id,
            since=timestamp(since),
        )
        if breach_after is not None and part.asked_at is not None:
            shown.breaches_at.CopyFrom(timestamp(part.asked_at + breach_after))
        return shown

    def _agent(self, agent: AgentKey, keys: list[SessionKey]) -> pb.BoardAgent:
        since = {key: self._open[key].state_since for key in keys}
        return pb.BoardAgent(
            sdk_app_id=agent[0],
            agent_id=agent[1],
            sessions=len(keys),
            unanswered=sum(self._open[key].unanswered_since is not None for key in keys),
            listed=[self._session(key, time) for time, key in _earliest(MAX_OF_AGENT, [since])],
        )


def _figures(cells: Collection[_Cell], thresholds: Thresholds) -> pb.BoardFigures:
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
        today=merged([cell.today for cell in cells]).figures(thresholds),
    )


def _agents(cells: Mapping[CellKey, _Cell]) -> dict[AgentKey, list[SessionKey]]:
    """Return the sessions of each agent, over all channels."""
    found: dict[AgentKey, list[SessionKey]] = {}
    for (app, _), cell in cells.items():
        for agent, keys in cell.by_agent.items():
            found.setdefault((app, agent), []).extend(keys)
    return found


def _earliest(most: int, times: Iterable[Mapping[SessionKey, int]]) -> list[tuple[int, SessionKey]]:
    """Return the earliest times with their sessions; equal times by key."""
    return nsmallest(most, ((time, key) for each in times for key, time in each.items()))

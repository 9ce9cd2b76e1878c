"""The figures of board and report that are expected of a run, from the simulator's own ledger.

Written from the comments in proto/desk/v1/{figures,board_service,report_service}.proto,
independently of the service's code. Times are milliseconds.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from simulator.expectation import Expectation, Stayed
from simulator.scripts import CLOSING, ENDED, FORWARDED, QUEUED, TRANSFERRING, WITH_AGENT

WAITING, HANDLED = (TRANSFERRING, QUEUED), (WITH_AGENT, FORWARDED)
OVER = (CLOSING, ENDED)
DAY = 24 * 3_600_000
WEEK = 7 * DAY

Found = dict[str, object]
"""Figures by the names of their fields."""


class Visit(NamedTuple):
    """A session of the ledger."""

    session_id: str
    session: Expectation
    stays: Sequence[Stayed]


class Offered(NamedTuple):
    """A session that was offered to the agents, with the name of the figure that it counts in."""

    at: int
    agent: str
    channel: str
    result: str
    wait: int
    is_forwarded: bool


def offers(visits: Iterable[Visit]) -> list[Offered]:
    return [found for visit in visits for found in _offer(visit)]


def _offer(visit: Visit) -> Iterable[Offered]:
    session, waits = visit.session, [each for each in visit.stays if each.state in WAITING]
    if not waits:
        return
    at, agent, wait = waits[0].start, "", 0
    last = [each.state for each in visit.stays if each.state not in OVER][-1]
    ended_at = session.closing_at or session.ended_at or 0
    if session.answered_at is not None:
        result, wait = "answered", session.answered_at - at
        joins = [s for s in visit.stays if s.state == WITH_AGENT]
        agent = next(s.agent for s in joins if s.start >= session.answered_at)
    elif session.state in WAITING:
        result = "waiting"
    elif last not in WAITING:
        result = "sent_back"
    elif session.end_reason in ("QUEUE_ABANDONED", "USER", "USER_TIMEOUT"):
        result, wait = "abandoned", ended_at - at
    else:
        result = "ended_otherwise"
    yield Offered(at, agent, session.channel_type, result, wait, session.forwards > 0)


def service(found: Sequence[Offered], within: int, short: int) -> Found:
    """Return the ServiceFigures of some sessions."""
    results = ("waiting", "answered", "abandoned", "sent_back", "ended_otherwise")
    figures: Found = {name: sum(each.result == name for each in found) for name in results}
    waits = sorted(each.wait for each in found if each.result == "answered")
    left = [each.wait for each in found if each.result == "abandoned"]
    in_time, shorts = sum(w <= within for w in waits), sum(w <= short for w in left)
    judged = len(waits) + len(left) - shorts
    forwarded = sum(each.is_forwarded and each.result == "answered" for each in found)
    return figures | {
        "offered": len(found),
        "answered_within": in_time,
        "short_abandons": shorts,
        "service_level": _ratio(in_time, judged),
        "abandonment_rate": _ratio(len(left) - shorts, judged),
        "raw_abandonment_rate": _ratio(len(left), len(found)),
        "forwarded": forwarded,
        "transfer_rate": _ratio(forwarded, len(waits)),
        "speed_of_answer": _waits(waits),
    }


def _waits(waits: Sequence[int]) -> Found:
    if not waits:
        return {"sessions": 0, "mean": None, "median": None, "p90": None, "p99": None, "max": None}
    return {
        "sessions": len(waits),
        "mean": sum(waits) // len(waits),
        **{
            name: next(w for w in waits if bisect_right(waits, w) * 100 >= percent * len(waits))
            for name, percent in (("median", 50), ("p90", 90), ("p99", 99))
        },
        "max": waits[-1],
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


class Expected:
    """The rows that are expected of a report, by place of the interval and key of the group.

    Args:
        visits: all sessions of the app.
        bounds: of the intervals, ascending.
        key: makes the key of a group of channel and agent.
    """

    def __init__(
        self, visits: Sequence[Visit], bounds: Sequence[int], key: Callable[[str, str], str]
    ) -> None:
        self._bounds = bounds
        self._key = key
        self._offers: dict[tuple[int, str], list[Offered]] = defaultdict(list)
        self._handled: dict[tuple[int, str], list[int]] = defaultdict(list)
        self._parts: dict[tuple[int, str], dict[str, list[tuple[int, int]]]] = defaultdict(dict)
        self._begun: dict[tuple[int, str], list[tuple[Visit, bool]]] = defaultdict(list)
        for offered in offers(visits):
            self._put(self._offers, offered.at, offered.channel, offered.agent, offered)
        again = _come_again(visits)
        for visit in visits:
            session = visit.session
            channel, agent = session.channel_type, session.agent_id
            self._put(self._begun, session.begun_at, channel, agent, (visit, id(visit) in again))
            self._put_contacts(visit)

    def rows(self, within: int, short: int) -> dict[tuple[int, str], dict[str, Found]]:
        places = {*self._offers, *self._handled, *self._parts, *self._begun}
        return {
            place: {
                "service": service(self._offers.get(place, []), within, short),
                "handling": self._handling(place),
                "outcome": _outcome(self._begun.get(place, [])),
            }
            for place in places
        }

    def _put(self, into: dict[Any, list[Any]], at: int, channel: str, agent: str, it: Any) -> None:
        place = bisect_right(self._bounds, at) - 1
        if 0 <= place < len(self._bounds) - 1:
            into[place, self._key(channel, agent)].append(it)

    def _put_contacts(self, visit: Visit) -> None:
        channel = visit.session.channel_type
        by_agent: dict[str, list[Stayed]] = defaultdict(list)
        for stay in visit.stays:
            if stay.state in HANDLED:
                by_agent[stay.agent].append(stay)
        for agent, stays in by_agent.items():
            ends = [stay.end for stay in stays if stay.end is not None]
            if len(ends) == len(stays):
                total = sum(ends) - sum(stay.start for stay in stays)
                self._put(self._handled, stays[0].start, channel, agent, total)
            for stay in stays:
                self._put_parts(stay, channel)

    def _put_parts(self, stay: Stayed, channel: str) -> None:
        if stay.end is None:
            return
        first = max(0, bisect_right(self._bounds, stay.start) - 1)
        for place in range(first, min(len(self._bounds) - 1, bisect_left(self._bounds, stay.end))):
            start = max(stay.start, self._bounds[place])
            end = min(stay.end, self._bounds[place + 1])
            parts = self._parts[place, self._key(channel, stay.agent)]
            parts.setdefault(stay.agent, []).append((start, end))

    def _handling(self, place: tuple[int, str]) -> Found:
        times = self._handled.get(place, [])
        parts = self._parts.get(place, {})
        worked = sum(end - start for each in parts.values() for start, end in each)
        busy = sum(map(_covered, parts.values()))
        return {
            "handled": len(times),
            "handle_time": sum(times),
            "average_handle_time": sum(times) // len(times) if times else None,
            "session_time": worked,
            "busy_time": busy,
            "concurrency": _ratio(worked, busy),
        }


def _covered(parts: Sequence[tuple[int, int]]) -> int:
    """Return the time at which anything goes on, counted between starts and ends."""
    changes = sorted([(start, 1) for start, _ in parts] + [(end, -1) for _, end in parts])
    total = level = before = 0
    for at, change in changes:
        total += (at - before) * (level > 0)
        level, before = level + change, at
    return total


def _outcome(found: Sequence[tuple[Visit, bool]]) -> Found:
    over = [visit for visit, _ in found if visit.session.state in OVER]
    contained = [
        visit
        for visit in over
        if visit.session.agent_joined_at is None
        and not any(stay.state in WAITING for stay in visit.stays)
    ]
    stars = [visit.session.satisfaction for visit, _ in found if visit.session.satisfaction]
    ended = [again for visit, again in found if visit.session.state == ENDED]
    resolved = len(ended) - sum(ended)
    return {
        "begun": len(found),
        "over": len(over),
        "contained": len(contained),
        "containment": _ratio(len(contained), len(over)),
        "ratings": len(stars),
        "satisfied": sum(each >= 4 for each in stars),
        "csat": _ratio(sum(each >= 4 for each in stars), len(stars)),
        "mean_rating": _ratio(sum(stars), len(stars)),
        "resolvable": len(ended),
        "repeat_contacts": sum(ended),
        "first_contact_resolution": _ratio(resolved, len(ended)),
    }


def _come_again(visits: Sequence[Visit]) -> set[int]:
    """Return the visits (by `id`) whose user came again within a week of their end."""
    begins: dict[str, list[int]] = defaultdict(list)
    for visit in visits:
        begins[visit.session.client_user_id].append(visit.session.begun_at)
    return {
        id(visit)
        for visit in visits
        if visit.session.ended_at is not None
        and any(
            visit.session.begun_at < begun_at <= visit.session.ended_at + WEEK
            for begun_at in begins[visit.session.client_user_id]
        )
    }


def open_visits(visits: Iterable[Visit], day_start: int) -> list[Visit]:
    """Return the sessions that a board shows as open: not those that have been silent for long."""
    return [
        visit
        for visit in visits
        if visit.session.state != ENDED and visit.session.last_event_at >= day_start - DAY
    ]


def live(visits: Sequence[Visit]) -> Found:
    """Return the figures of a board that are about open sessions."""
    waits, owed = waiting(visits), unanswered(visits)
    return {
        "states": dict(Counter(visit.session.state for visit in visits)),
        "waiting": len(waits),
        "longest_waiting_since": waits[0][0] if waits else None,
        "unanswered": len(owed),
        "longest_unanswered_since": owed[0][0] if owed else None,
    }


def waiting(visits: Iterable[Visit]) -> list[tuple[int, str]]:
    """Return since when users wait for an agent, and the sessions."""
    return sorted(
        (_since(visit, WAITING), visit.session_id)
        for visit in visits
        if visit.session.state in WAITING
    )


def unanswered(visits: Iterable[Visit]) -> list[tuple[int, str]]:
    """Return since when agents owe answers, and the sessions."""
    return sorted((_owed_since(visit), visit.session_id) for visit in visits if _owed_since(visit))


def agents(visits: Iterable[Visit]) -> list[tuple[str, int, int]]:
    """Return the agents who have sessions, with the numbers of sessions and of answers owed."""
    sessions: dict[str, list[Visit]] = defaultdict(list)
    for visit in visits:
        if visit.session.state in HANDLED:
            sessions[visit.session.agent_id].append(visit)
    found = (
        (agent, len(each), sum(map(bool, map(_owed_since, each))))
        for agent, each in sessions.items()
    )
    return sorted(found, key=lambda agent: (-agent[1], agent[0]))


def _owed_since(visit: Visit) -> int:
    session = visit.session
    asked, answered = session.last_user_message_at or 0, session.last_agent_message_at or 0
    return asked if session.state in HANDLED and asked > answered else 0


def _since(visit: Visit, states: tuple[str, ...]) -> int:
    """Return the start of the last stays that are all in some states."""
    since = visit.stays[-1].start
    for stay in reversed(visit.stays):
        if stay.state not in states:
            break
        since = stay.start
    return since

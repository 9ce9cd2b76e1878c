"""Reports: the figures of sessions by interval and group. Pure: no I/O, no clock.

Formulas: proto/desk/v1/report_service.proto.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from callback.catalogue import LIVE, State
from desk.v1 import report_service_pb2 as pb
from service.figures import answering_agent, handled, is_contained, offer
from service.records import duration, timestamp
from service.session import AgentKey, Session
from service.tally import Tally, Thresholds, ratio

RESOLVED_AFTER = 7 * 24 * 3_600_000
"""Milliseconds after its end in which a contact of the same user counts as a repeat."""

GOOD = 4
"""Stars from which on a user is satisfied."""

SPARE = 5_000
"""Milliseconds by which an event may be older than the begin of its session."""

Group = tuple[int, str, str]
"""App, channel and agent; 0 or empty where it is not grouped by."""


class ReportSelection(NamedTuple):
    """The report that is asked for; of the filters, empty = all.

    Attributes:
        bounds: of the intervals, ms, ascending; one more than there are intervals.
        by_app, by_channel, by_agent: what is grouped by.
    """

    bounds: Sequence[int]
    by_app: bool
    by_channel: bool
    by_agent: bool
    sdk_app_ids: Collection[int]
    channel_types: Collection[str]
    agent_ids: Collection[str]
    thresholds: Thresholds

    def selects_app(self, sdk_app_id: int) -> bool:
        return not self.sdk_app_ids or sdk_app_id in self.sdk_app_ids

    def selects_channel(self, channel_type: str) -> bool:
        return not self.channel_types or channel_type in self.channel_types


class _Row:
    """The sums of a group in an interval."""

    def __init__(self) -> None:
        self.offers = Tally()
        self.handled = self.handle_time = self.session_time = 0
        self.stays: dict[AgentKey, list[tuple[int, int]]] = {}
        self.begun = self.over = self.contained = self.resolvable = self.repeated = 0
        self.stars: list[int] = []

    def include(self, other: "_Row") -> None:
        self.offers.include(other.offers)
        self.handled += other.handled
        self.handle_time += other.handle_time
        self.session_time += other.session_time
        for agent, stays in other.stays.items():
            self.stays.setdefault(agent, []).extend(stays)
        self.begun += other.begun
        self.over += other.over
        self.contained += other.contained
        self.resolvable += other.resolvable
        self.repeated += other.repeated
        self.stars += other.stars

    def busy_time(self) -> int:
        return sum(map(_union, self.stays.values()))

    def message(self, group: Group, thresholds: Thresholds, *, provisional: bool) -> pb.ReportRow:
        app, channel, agent = group
        return pb.ReportRow(
            sdk_app_id=app,
            channel_type=channel,
            agent_id=agent,
            service=self.offers.figures(thresholds),
            handling=self._handling(),
            outcome=self._outcome(provisional),
        )

    def _handling(self) -> pb.HandlingFigures:
        busy = self.busy_time()
        mean = duration(self.handle_time // self.handled) if self.handled else None
        return pb.HandlingFigures(
            handled=self.handled,
            handle_time=duration(self.handle_time),
            average_handle_time=mean,
            session_time=duration(self.session_time),
            busy_time=duration(busy),
            concurrency=ratio(self.session_time, busy),
        )

    def _outcome(self, provisional: bool) -> pb.OutcomeFigures:
        satisfied = sum(stars >= GOOD for stars in self.stars)
        resolved = self.resolvable - self.repeated
        return pb.OutcomeFigures(
            begun=self.begun,
            over=self.over,
            contained=self.contained,
            containment=ratio(self.contained, self.over),
            ratings=len(self.stars),
            satisfied=satisfied,
            csat=ratio(satisfied, len(self.stars)),
            mean_rating=ratio(sum(self.stars), len(self.stars)),
            resolvable=self.resolvable,
            repeat_contacts=self.repeated,
            first_contact_resolution=ratio(resolved, self.resolvable),
            resolution_provisional=provisional,
        )


class Reported(NamedTuple):
    """A session with the facts that the report needs.

    Attributes:
        revision: of the last change of its figures.
        is_repeated: its user came again.
        start, end: ms between which its figures lie.
    """

    sdk_app_id: int
    session: Session
    revision: int
    is_repeated: bool
    start: int
    end: int


class Report:
    """The figures of a range, filled session by session; `rows` counts the groups that have any."""

    def __init__(self, selection: ReportSelection) -> None:
        self.rows = 0
        self._selection = selection
        self._bounds = selection.bounds
        self._intervals: list[dict[Group, _Row]] = [{} for _ in self._bounds[1:]]
        self._revisions = [0] * len(self._intervals)
        self._touched: set[int] = set()  # places of intervals that have changed for other reasons

    def add(self, reported: Reported) -> None:
        """Add the figures of a session of a selected app."""
        # Also of other channels: a late callback may have brought the session there.
        for place in self._places(reported.start - SPARE, reported.end):
            self._revisions[place] = max(self._revisions[place], reported.revision)
        if self._selection.selects_channel(reported.session.channel_type):
            self._add_offer(reported)
            self._add_handling(reported)
            self._add_outcome(reported)

    def touch(self, start: int, end: int) -> None:
        """Note that something has changed between two times, both included."""
        self._touched.update(self._places(start, end))

    def intervals(
        self, *, since_revision: int, all_changed: bool, now: int
    ) -> Iterator[pb.ReportInterval]:
        """Yield the intervals.

        Args:
            since_revision: after which changes are reported; 0: none are.
            all_changed: every interval may have changed since.
            now: Unix time, ms.
        """
        for place, groups in enumerate(self._intervals):
            start, end = self._bounds[place], self._bounds[place + 1]
            changed = self._revisions[place] > since_revision or place in self._touched
            yield pb.ReportInterval(
                start_time=timestamp(start),
                end_time=timestamp(end),
                revision=self._revisions[place],
                changed=since_revision > 0 and (changed or all_changed),
                rows=[self._message(row, group, end, now) for group, row in sorted(groups.items())],
            )

    def total(self, now: int) -> pb.ReportRow | None:
        """Return the figures of all intervals and groups; None if there are no rows.

        It is made of what the rows have: each session, stay and rating is in one row only.
        """
        if not self.rows:
            return None
        total = _Row()
        for groups in self._intervals:
            for row in groups.values():
                total.include(row)
        return self._message(total, (0, "", ""), self._bounds[-1], now)

    def _message(self, row: _Row, group: Group, end: int, now: int) -> pb.ReportRow:
        provisional = now < end + RESOLVED_AFTER
        return row.message(group, self._selection.thresholds, provisional=provisional)

    def _add_offer(self, reported: Reported) -> None:
        session = reported.session
        if offered := offer(session):
            agent = answering_agent(session)
            if row := self._row(reported, offered.offered_at, agent):
                row.offers.add(offered)

    def _add_handling(self, reported: Reported) -> None:
        contacts: dict[str, list[int | None]] = {}  # start, then the length of each stay
        for span in handled(reported.session):
            contact = contacts.setdefault(span.agent_id, [span.start])
            contact.append(None if span.end is None else span.end - span.start)
            if span.end is not None:
                self._add_stay(reported, span.agent_id, span.start, span.end)
        for agent, (start, *lengths) in contacts.items():
            finished = [length for length in lengths if length is not None]
            row = self._row(reported, start or 0, agent)
            if row and len(finished) == len(lengths):
                row.handled += 1
                row.handle_time += sum(finished)

    def _add_stay(self, reported: Reported, agent: str, start: int, end: int) -> None:
        """Add a stay to each interval that it lies in."""
        for place in self._places(start, end - 1):
            part = max(start, self._bounds[place]), min(end, self._bounds[place + 1])
            if row := self._row(reported, part[0], agent):
                row.session_time += part[1] - part[0]
                row.stays.setdefault((reported.sdk_app_id, agent), []).append(part)

    def _add_outcome(self, reported: Reported) -> None:
        session = reported.session
        row = self._row(reported, session.begun_at or 0, session.agent_id)
        if not row:
            return
        row.begun += 1
        row.over += session.state not in LIVE
        row.contained += is_contained(session)
        if session.satisfaction:
            row.stars.append(session.satisfaction)
        if session.state is State.ENDED and session.client_user_id:
            row.resolvable += 1
            row.repeated += reported.is_repeated

    def _row(self, reported: Reported, time: int, agent: str) -> _Row | None:
        """Return the row that a figure belongs to; None if it is of no interest."""
        chosen = self._selection
        place = bisect_right(self._bounds, time) - 1
        if not 0 <= place < len(self._intervals):
            return None
        if chosen.agent_ids and agent not in chosen.agent_ids:
            return None
        group = (
            reported.sdk_app_id if chosen.by_app else 0,
            reported.session.channel_type if chosen.by_channel else "",
            agent if chosen.by_agent else "",
        )
        groups = self._intervals[place]
        if group not in groups:
            groups[group] = _Row()
            self.rows += 1
        return groups[group]

    def _places(self, start: int, end: int) -> range:
        """Return the intervals between two times, both included."""
        first = max(0, bisect_right(self._bounds, start) - 1)
        return range(first, min(len(self._intervals), bisect_left(self._bounds, end + 1)))


def _union(stays: Iterable[tuple[int, int]]) -> int:
    """Return the time that at least one of some stays covers."""
    total = covered = 0
    for start, end in sorted(stays):
        total += max(0, end - max(start, covered))
        covered = max(covered, end)
    return total

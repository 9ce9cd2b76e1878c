"""Answers of the client: what the service found, and the revision that it reflects."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from desk.v1.board_service_pb2 import Board
from desk.v1.event_pb2 import SessionRecord
from desk.v1.figures_pb2 import Thresholds
from desk.v1.report_service_pb2 import ReportInterval, ReportRow
from desk.v1.session_pb2 import Session, SessionKey
from desk.v1.session_service_pb2 import SessionGroup


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Base of all answers.

    Pass both attributes to `Client.subscribe` to follow the changes after the answer.

    Attributes:
        journal_id: the journal that `revision` counts in.
        revision: every callback up to this one is taken into account, and none after it.
    """

    journal_id: str
    revision: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundSession(Answer):
    """One session.

    Attributes:
        session: as of `revision`.
    """

    session: Session


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundSessions(Answer):
    """Several sessions. If several calls were needed, some may be newer than `revision`.

    Attributes:
        sessions: those found, in the order of the keys.
        missing: the keys of those not found, with their `sdk_app_id`.
    """

    sessions: Sequence[Session]
    missing: Sequence[SessionKey]


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionCounts(Answer):
    """Sessions counted by group.

    Attributes:
        groups: the largest first, then by key; at most 1,000.
        other_sessions: the sum of all further groups.
    """

    groups: Sequence[SessionGroup]
    other_sessions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation(Answer):
    """The callbacks of a session, each with its verdict.

    Attributes:
        session: as of `revision`; None if it has not begun.
        records: every callback in time order; can be iterated once, and reads page after page.
    """

    session: Session | None
    records: AsyncIterator[SessionRecord]


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundBoard(Answer):
    """The live board.

    Attributes:
        board: as of `revision`.
    """

    board: Board


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundReport(Answer):
    """A report.

    Attributes:
        intervals: all of the range, ascending.
        total: the figures of all intervals and groups together; None if there are no rows.
        thresholds: those that were used.
        time_zone: the zone of the intervals.
    """

    intervals: Sequence[ReportInterval]
    total: ReportRow | None
    thresholds: Thresholds
    time_zone: str

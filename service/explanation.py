"""Explains a session: its callbacks in time order, each with its present outcome.

The facts in its records are folded again. Pure: no I/O, no clock.
"""

from collections.abc import Iterable
from typing import NamedTuple

from desk.v1.event_pb2 import SessionRecord
from service.history import History, HistoryEntry
from service.records import STATES, duration
from service.session import Outcome, explain


class Explained(NamedTuple):
    """A callback at its place in time order, as it stands after a revision.

    Attributes:
        position: of the record published for it last.
        late_by: milliseconds by which it is older than the newest event that had arrived before it;
            None if it came in order.
    """

    position: int
    event: str
    outcome: Outcome
    late_by: int | None

    def correct(self, record: SessionRecord) -> SessionRecord:
        """Change the published record to the callback's outcome as it stands; return it."""
        record.state_before = STATES[self.outcome.before]
        record.state_after = STATES[self.outcome.after]
        record.rejection_detail = explain(self.outcome, self.event)
        if self.late_by is not None:
            record.late_by.CopyFrom(duration(self.late_by))
        return record


def explained(callbacks: list[HistoryEntry], positions: dict[int, int]) -> list[Explained]:
    """Put the callbacks of one session in time order.

    Args:
        callbacks: all of them, in order of revision; they are folded.
        positions: the position of each callback's last record, by the callback's revision.
    """
    late = _lateness(callbacks)
    return [
        Explained(positions[each.revision], each.facts.event, each.outcome, late.get(each.revision))
        for each in History.replay(callbacks).tail
    ]


def _lateness(callbacks: Iterable[HistoryEntry]) -> dict[int, int]:
    """Return by how many milliseconds each late callback is late, by its revision."""
    late: dict[int, int] = {}
    newest_key, newest_time = (0, 0, b""), 0
    for each in callbacks:
        time = each.facts.event_time
        if each.key < newest_key:
            # A SessionBegin may come late without being older: it sorts before its time.
            late[each.revision] = max(0, newest_time - time)
        newest_key = max(newest_key, each.key)
        newest_time = max(newest_time, time)
    return late

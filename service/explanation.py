"""Explains a session: its callbacks in time order, each with what was made of it in the end.

Refolds the facts that the feed holds. Pure: no I/O, no clock.
"""

from collections.abc import Iterable
from typing import NamedTuple

from desk.v1.event_pb2 import SessionRecord

from service.history import History, Key, Placed
from service.records import STATES, duration
from service.session import Outcome, explain


class Explained(NamedTuple):
    """A callback at its place in time order, as things stand after a revision.

    Attributes:
        position: of the record that was published for it last.
        late_by: how much older it is than the newest event that had arrived before it, in ms; None
            if it came in order.
    """

    position: int
    event: str
    outcome: Outcome
    late_by: int | None

    def correct(self, record: SessionRecord) -> SessionRecord:
        """Make the record that was published say how things stand."""
        record.state_before = STATES[self.outcome.before]
        record.state_after = STATES[self.outcome.after]
        record.rejection_detail = explain(self.outcome, self.event)
        if self.late_by is not None:
            record.late_by.CopyFrom(duration(self.late_by))
        return record


def explained(callbacks: list[Placed], positions: dict[int, int]) -> list[Explained]:
    """Put the callbacks of one session in time order.

    Args:
        callbacks: all of them, in order of revision; they are folded.
        positions: by a callback's revision, that of its last record.
    """
    late = _lateness(callbacks)
    return [
        Explained(positions[each.revision], each.facts.event, each.outcome, late.get(each.revision))
        for each in History.replay(callbacks).tail
        if each.outcome
    ]


def _lateness(callbacks: Iterable[Placed]) -> dict[int, int]:
    """Compare each callback with those that had arrived before it."""
    late: dict[int, int] = {}
    newest_key: Key | None = None
    newest_time = 0
    for each in callbacks:
        time = each.facts.event_time
        if newest_key is not None and each.key < newest_key:
            # A SessionBegin may come late without being older: it sorts before its time.
            late[each.revision] = max(0, newest_time - time)
        newest_key = max(newest_key or each.key, each.key)
        newest_time = max(newest_time, time)
    return late

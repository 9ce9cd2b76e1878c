"""Tells a session's story: its callbacks in time order, each with what was made of it in the end.

Refolds what the feed holds. Pure: no I/O, no clock.
"""

from collections.abc import Iterable

from desk.v1.event_pb2 import SessionRecord
from journal.callback import decode
from service.history import History, Placed, facts, order_key
from service.records import STATES, duration
from service.session import explain


def tell(published: Iterable[SessionRecord]) -> list[SessionRecord]:
    """Put the records of one session in time order, as things stand after the last of them.

    Args:
        published: all records of a session up to some revision, in the order of the feed.

    Returns:
        for each event the record that was published for it last, with the states around its place
        as they are now, and `late_by`.
    """
    latest = {record.event.revision: record for record in published}
    placed = [_place(latest[revision]) for revision in sorted(latest)]
    _note_lateness(placed, latest)
    History.replay(placed)
    return [_retold(latest[each.revision], each) for each in sorted(placed, key=_key)]


def _place(record: SessionRecord) -> Placed:
    event = record.event
    callback = decode(event.raw_body)
    key = order_key(callback, bytes.fromhex(event.id))
    return Placed(key, event.revision, facts(callback))


def _key(placed: Placed) -> tuple[int, int, bytes]:
    return placed.key


def _note_lateness(placed: Iterable[Placed], records: dict[int, SessionRecord]) -> None:
    """Compare each callback with those that had arrived before it."""
    newest_key, newest_time = None, 0
    for each in placed:
        time = each.callback.event_time
        if newest_key is not None and each.key < newest_key:
            # A SessionBegin may come late without being older: it sorts before its time.
            records[each.revision].late_by.CopyFrom(duration(max(0, newest_time - time)))
        newest_key = max(newest_key or each.key, each.key)
        newest_time = max(newest_time, time)


def _retold(record: SessionRecord, placed: Placed) -> SessionRecord:
    if placed.outcome:
        record.state_before = STATES[placed.outcome.before]
        record.state_after = STATES[placed.outcome.after]
        record.rejection_detail = explain(placed.outcome, record.event.type_name)
    return record

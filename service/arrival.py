"""A journal entry as the projection takes it: decoded, but not folded yet."""

import msgspec

from callback.decoder import Malformed, TooEarly, decode
from journal.entry import Entry
from service import records
from service.history import HistoryEntry
from service.session import without_message
from service.view.writer import SessionKey


class Arrival(msgspec.Struct, gc=False):
    """A decoded entry.

    Attributes:
        event: a record of its event alone, serialised.
        key: its session; with an empty id if the body names none that can be read.
        problem: the reason why it is malformed; "" if it is not.
        callback: its content; None if that cannot be read.
        facts: the part of it that the view stores for the fold, serialised.
    """

    entry: Entry
    event: bytes
    key: SessionKey
    problem: str = ""
    callback: HistoryEntry | None = None
    facts: bytes = b""


def arrival_of(entry: Entry) -> Arrival:
    """Decode an entry. One that came too early is malformed, although its content can be read."""
    problem = ""
    try:
        decoded = decode(entry.body, entry.received_at)
    except TooEarly as fault:
        problem, decoded = str(fault), fault.callback
    except Malformed as fault:
        key = (entry.sdk_app_id, "")
        return Arrival(entry, records.event(entry, None), key, str(fault))
    facts = without_message(decoded, entry.id)
    stored = msgspec.msgpack.encode(facts)
    return Arrival(
        entry,
        records.event(entry, None if problem else decoded),
        (entry.sdk_app_id, decoded.session_id),
        problem,
        HistoryEntry.of(facts, entry.revision, len(stored)),
        stored,
    )

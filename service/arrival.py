"""A journal entry as the projection takes it: decoded, but not folded yet."""

import msgspec

from callback.decoder import read
from journal.entry import DAMAGED, Entry, Kind
from service import records
from service.history import HistoryEntry
from service.session import SessionKey, without_message

_CALLBACK = int(Kind.CALLBACK)  # Enum members are slow to look up and to compare in Python 3.11


class Arrival(msgspec.Struct, gc=False):
    """A decoded entry.

    Attributes:
        event: a record of its event alone, serialised.
        key: its session; with an empty id if the body names none that can be read.
        problem: the reason why it is malformed; "" if it is not.
        callback: its content; None if that cannot be read.
    """

    entry: Entry
    event: bytes
    key: SessionKey
    problem: str = ""
    callback: HistoryEntry | None = None


def arrival_of(entry: Entry) -> Arrival:
    """Decode an entry, and check its id, which is a digest of app and body.

    An entry that came too early is malformed, although its content can be read. No content is taken
    from a damaged entry.
    """
    if entry.kind != _CALLBACK:
        return Arrival(entry, b"", (entry.sdk_app_id, ""))
    reading = read(entry.sdk_app_id, entry.body, entry.received_at)
    callback, problem = reading.callback, reading.problem
    if reading.identity != entry.id:
        callback, problem = None, DAMAGED
    if callback is None:
        return Arrival(entry, records.event(entry), (entry.sdk_app_id, ""), problem)
    facts = without_message(callback, entry.id)
    return Arrival(
        entry,
        records.event(entry) if problem else records.event(entry, callback, facts),
        (entry.sdk_app_id, callback.session_id),
        problem,
        HistoryEntry.of(facts, entry.revision),
    )

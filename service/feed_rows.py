"""Rows of the feed: one for each published verdict, malformed callback and FORGET entry."""

from typing import Any

from desk.v1 import event_pb2
from journal.entry import Entry
from journal.forgetting import ForgetList
from service import records
from service.arrival import Arrival
from service.history import HistoryEntry
from service.positions import position_of
from service.session_cache import CachedSession
from service.view.rows import FORGOTTEN, NO_HISTORY, FeedRow


def callback_row(
    session: CachedSession,
    callback: HistoryEntry,
    ordinal: int,
    kind: int,
    received_at: int,
    event: bytes = b"",
    snapshot: bytes | None = None,
) -> FeedRow:
    """Make the row for a callback's outcome.

    Args:
        session: after the callback of this revision.
        callback: with the outcome to publish.
        ordinal: of the row among those of the revision; above 0 the verdict is revised.
        kind: value of the column `revised`.
        received_at: Unix time (ms) of the callback of this revision.
        event: the record of the event alone, in the callback's own row.
        snapshot: the session after the callback, serialised, likewise.
    """
    facts, outcome, revision = callback.facts, callback.outcome, session.revision
    now = session.history.session.state
    verdict = records.VERDICTS[outcome.verdict]
    callback.verdicts |= 1 << verdict
    fields = records.verdict_fields(outcome, facts.event, now, ordinal > 0)
    record = records.record(fields, revision, ordinal)
    return FeedRow(
        position_of(revision, ordinal),
        callback.revision,
        *session.key,
        session.first_revision,
        kind,
        records.event_type(facts.event),
        verdict,
        records.REASONS[outcome.reason],
        callback.verdicts,
        callback.agent_id,
        facts.client_user_id,
        facts.channel_type,
        received_at,
        record + event,
        len(record),
        snapshot,
    )


def malformed_row(arrival: Arrival) -> FeedRow:
    fields = records.malformed_fields(arrival.problem)
    record = records.record(fields, arrival.entry.revision)
    return _row_without_session(
        arrival.entry,
        revised=NO_HISTORY,
        verdict=fields.verdict,
        reason=fields.rejection_reason,
        verdicts=1 << fields.verdict,
        record=record + arrival.event,
        event_at=len(record),
    )


def forgotten_row(entry: Entry, listed: ForgetList) -> FeedRow:
    record = records.forgotten(entry, listed)
    return _row_without_session(
        entry,
        revised=FORGOTTEN,
        verdict=event_pb2.VERDICT_UNSPECIFIED,
        reason=event_pb2.REJECTION_REASON_UNSPECIFIED,
        verdicts=-1,
        record=record,
        event_at=len(record),
    )


def _row_without_session(entry: Entry, **columns: Any) -> FeedRow:
    return FeedRow(
        position=position_of(entry.revision),
        event_revision=entry.revision,
        sdk_app_id=entry.sdk_app_id,
        session_id="",
        first_revision=0,
        type=event_pb2.EVENT_TYPE_UNSPECIFIED,
        agent_id="",
        client_user_id="",
        channel_type="",
        received_at=entry.received_at,
        session=None,
        **columns,
    )

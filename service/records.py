"""Builds desk.v1 events and records, serialised, as the feed and the API have them.

Deterministic: the same entry and outcome give the same bytes, which the feed's digest relies on. So
no message here may have a map: protobuf writes its entries in any order. A record, its event and
its session are written one by one; their bytes are joined, as protobuf allows.
"""

from functools import lru_cache

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from callback.catalogue import EndReason, EventType, Field, State, carriers
from callback.decoder import Callback
from desk.v1 import event_pb2, session_pb2
from desk.v1.event_service_pb2 import SubscribeResponse
from journal.entry import DAMAGED, Entry, numbered
from journal.forgetting import ForgetList, forget_entry
from service.message import fill
from service.session import Facts, Outcome, Reason, Verdict, explain

STATES = {
    state: session_pb2.SESSION_STATE_UNSPECIFIED
    if state is State.NEW
    else session_pb2.SessionState.Value(f"SESSION_STATE_{state.name}")
    for state in State
}
END_REASONS = {
    reason: session_pb2.EndReason.Value(f"END_REASON_{reason.name}") for reason in EndReason
}
TYPES: dict[str, event_pb2.EventType.ValueType] = {
    event: event_pb2.EventType.Value(f"EVENT_TYPE_{event.name}") for event in EventType
}
VERDICTS = {verdict: event_pb2.Verdict.Value(f"VERDICT_{verdict.name}") for verdict in Verdict}
REASONS = {
    reason: event_pb2.RejectionReason.Value(f"REJECTION_REASON_{reason.name}") for reason in Reason
}

CACHED = 1_024
"""Outcomes whose `verdict_fields` are kept in memory."""


def event_type(name: str) -> event_pb2.EventType.ValueType:
    """Return the desk.v1.EventType of an event as Desk spells it."""
    return TYPES.get(name, event_pb2.EVENT_TYPE_UNRECOGNISED)


def event(entry: Entry, callback: Callback | None = None, facts: Facts | None = None) -> bytes:
    """Write a record of an entry's event alone; there is no callback if its body is malformed."""
    whole = event_pb2.SessionRecord()
    made = whole.event
    made.revision = entry.revision
    made.sdk_app_id = entry.sdk_app_id
    made.request_id = entry.request_id
    made.client_ip = entry.client_ip
    made.platform = entry.platform
    made.id = entry.id.hex()
    made.raw_body = entry.body
    set_time(made.received_at, entry.received_at)
    if callback and facts:
        _fill(made, callback, facts)
    return whole.SerializeToString()


def _fill(made: event_pb2.Event, callback: Callback, facts: Facts) -> None:
    """Copy the fields of a callback that mean something in its event."""
    name = facts.event
    made.session_id = callback.session_id
    made.type = event_type(name)
    made.type_name = name
    set_time(made.event_time, facts.event_time)
    made.channel_type = facts.channel_type
    made.client_user_id = facts.client_user_id
    made.customer_service_id = facts.customer_service_id
    if callback.cloud_custom_data:
        made.cloud_custom_data = callback.cloud_custom_data
    for field, attribute in _CARRIED.get(name, ()):
        setattr(made, field, getattr(facts, attribute))
    if name in _WITH_MESSAGE:
        fill(made.message, facts.message_key, callback.message)


def facts_of(record: bytes) -> Facts:
    """Read a callback's facts from a record that has its event."""
    event = event_pb2.SessionRecord.FromString(record).event
    time = event.event_time
    return Facts(
        time.seconds * 1000 + time.nanos // 1_000_000,
        event.type_name,
        bytes.fromhex(event.id),
        event.client_user_id,
        event.customer_service_id,
        event.channel_type,
        event.agent_id,
        event.forward_from_agent_id,
        event.message.key,
        event.agent_contacted_user,
        event.satisfaction,
    )


_CONTENT = {
    Field.AGENT: ("agent_id", "agent_id"),
    Field.PREVIOUS_AGENT: ("forward_from_agent_id", "forward_from_agent_id"),
    Field.STARS: ("satisfaction", "stars"),
    Field.CONTACT: ("agent_contacted_user", "is_contact_user"),
}
"""The fields of desk.v1.Event and of `Facts` that a field of Desk's is in."""
_CARRIED: dict[str, list[tuple[str, str]]] = {
    event: [_CONTENT[field] for field in event.row.carries if field in _CONTENT]
    for event in EventType
}
_WITH_MESSAGE = carriers(Field.MESSAGE)


def outcome_numbers(outcome: Outcome) -> tuple[int, int, int]:
    """Return the state before, the verdict and the reason as desk.v1 numbers them."""
    return STATES[outcome.before], VERDICTS[outcome.verdict], REASONS[outcome.reason]


@lru_cache(CACHED)
def verdict_fields(
    outcome: Outcome, event: str, session_state: State, revised: bool
) -> event_pb2.SessionRecord:
    """Make the fields of a record but for its position, of an event as Desk spells it.

    The message is cached. Records of the same outcome share it: only `record` may change it.
    """
    return event_pb2.SessionRecord(
        verdict=VERDICTS[outcome.verdict],
        rejection_reason=REASONS[outcome.reason],
        rejection_detail=explain(outcome, event),
        state_before=STATES[outcome.before],
        state_after=STATES[outcome.after],
        session_state=STATES[session_state],
        revised=revised,
    )


def malformed_fields(problem: str) -> event_pb2.SessionRecord:
    """Make the fields of the record of a body that is no callback."""
    return event_pb2.SessionRecord(
        verdict=event_pb2.VERDICT_REJECTED,
        rejection_reason=event_pb2.REJECTION_REASON_MALFORMED,
        rejection_detail=problem,
    )


def record(fields: event_pb2.SessionRecord, revision: int, ordinal: int = 0) -> bytes:
    """Write a record without its event, at its position in the feed."""
    fields.revision = revision
    if ordinal:  # only of fields that are revised: none is left over in the others
        fields.ordinal = ordinal
    return fields.SerializeToString()


def is_of_damaged(record: bytes) -> bool:
    """Return True if a record is of an entry that was damaged."""
    return event_pb2.SessionRecord.FromString(record).rejection_detail == DAMAGED


def forgotten(entry: Entry, listed: ForgetList) -> bytes:
    """Write the row of the feed for a FORGET entry: a SubscribeResponse without its header."""
    content = event_pb2.Forgotten(
        revision=entry.revision,
        sdk_app_id=entry.sdk_app_id,
        session_ids=listed.session_ids,
        malformed_revisions=listed.revisions,
        requested_at=timestamp(entry.received_at),
    )
    return SubscribeResponse(forgotten=content).SerializeToString()


def forget_entry_of(row: bytes) -> Entry:
    """Make a FORGET entry with the lists in a row of `forgotten`."""
    content = SubscribeResponse.FromString(row).forgotten
    made = forget_entry(
        content.sdk_app_id,
        content.requested_at.ToMilliseconds(),
        session_ids=content.session_ids,
        revisions=content.malformed_revisions,
    )
    return numbered(made, content.revision)


_FORGOTTEN = bytes([SubscribeResponse.FORGOTTEN_FIELD_NUMBER << 3 | 2])


def is_forgotten(row: bytes) -> bool:
    """Return True if a row of the feed is from `forgotten`: a record begins with its revision."""
    return row.startswith(_FORGOTTEN)


@lru_cache(16)
def forgotten_sessions(row: bytes) -> frozenset[str]:
    """Return the sessions in a row of `forgotten`, and "" for what is malformed."""
    return frozenset((*SubscribeResponse.FromString(row).forgotten.session_ids, ""))


def received_at(row: bytes) -> int:
    """Return the time (ms) at which the entry of a row of the feed was received."""
    if is_forgotten(row):
        return SubscribeResponse.FromString(row).forgotten.requested_at.ToMilliseconds()
    return event_pb2.SessionRecord.FromString(row).event.received_at.ToMilliseconds()


def forgotten_revisions(row: bytes) -> frozenset[int]:
    """Return the revisions of the malformed callbacks in a row of `forgotten`."""
    return frozenset(SubscribeResponse.FromString(row).forgotten.malformed_revisions)


def set_time(time: Timestamp | Duration, milliseconds: int) -> None:
    """Set a Timestamp or a Duration that is a field of a message."""
    time.seconds = milliseconds // 1000
    time.nanos = milliseconds % 1000 * 1_000_000


def timestamp(milliseconds: int) -> Timestamp:
    """Make a Timestamp of Unix milliseconds."""
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def duration(milliseconds: int) -> Duration:
    """Make a Duration of non-negative milliseconds."""
    return Duration(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)

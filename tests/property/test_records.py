"""Events, records and sessions in desk.v1, for any callbacks."""

from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from callback.catalogue import EventType, State
from callback.decoder import MAX_EVENT_TIME, MIN_EVENT_TIME, Callback
from desk.v1 import event_pb2, session_pb2
from journal.entry import Entry
from service import records
from service.history import History, HistoryEntry
from service.message import fill
from service.records import duration, timestamp
from service.session import Outcome, Reason, Session, Stay, Verdict, explain, without_message
from service.session_message import DERIVED, SessionMessage
from tests.support.callbacks import bodies, body, decode, entries, entry

texts = st.text("a\x00é你😀", max_size=5) | st.integers(0, 60).map("é".__mul__)
TIMES = {"google.protobuf.Timestamp": timestamp, "google.protobuf.Duration": duration}


def all_messages(descriptor: Descriptor) -> set[Descriptor]:
    """Return a message's type and the types of all messages within it."""
    found, new = {descriptor}, [descriptor]
    while new:
        fields = new.pop().fields
        within = {field.message_type for field in fields if field.message_type} - found
        found |= within
        new += within
    return found


def test_nothing_that_is_stored_has_a_map_which_protobuf_writes_in_any_order():
    found = all_messages(event_pb2.SessionRecord.DESCRIPTOR)
    assert session_pb2.Session.DESCRIPTOR in found
    assert not any(message.GetOptions().map_entry for message in found)


def expected_event(entry: Entry, callback: Callback) -> event_pb2.Event:
    """Make the event, with all fields that mean something in its type."""
    made = event_pb2.Event(
        revision=entry.revision,
        sdk_app_id=entry.sdk_app_id,
        received_at=timestamp(entry.received_at),
        request_id=entry.request_id,
        client_ip=entry.client_ip,
        platform=entry.platform,
        id=entry.id.hex(),
        raw_body=entry.body,
        session_id=callback.session_id,
        type=records.event_type(callback.event),
        type_name=callback.event,
        event_time=timestamp(callback.event_time),
        channel_type=callback.channel_type or "",
        client_user_id=callback.client_user_id or "",
        customer_service_id=callback.customer_service_id or "",
        cloud_custom_data=callback.cloud_custom_data or "",
        agent_id=without_message(callback, b"").agent_id,
    )
    if callback.event.endswith("SendMsg"):
        fill(made.message, callback.message_key or "", callback.message)
    if callback.event == EventType.AGENT_FORWARD:
        made.forward_from_agent_id = callback.forward_from_agent_id or ""
    if callback.event == EventType.SATISFACTION_SELECTED:
        made.satisfaction = callback.satisfaction or 0
    if callback.event in (EventType.SESSION_BEGIN, EventType.TRANSFER_TO_HUMAN_SUCCESS):
        made.agent_contacted_user = callback.is_contact_user or False
    return made


@given(
    st.sampled_from([*EventType, "Brand.New"]),
    st.integers(1, 2**40),
    st.integers(MIN_EVENT_TIME, MAX_EVENT_TIME),
    st.fixed_dictionaries(
        {
            "AgentId": st.sampled_from(["", "ann"]),
            "ForwardFromAgentId": st.sampled_from(["", "bob"]),
            "ChannelType": texts,
            "CloudCustomData": texts,
            "MsgKey": st.sampled_from(["", "k"]),
            "MsgBody": st.lists(
                st.builds(
                    lambda text: {"MsgType": "TIMTextElem", "MsgContent": {"Text": text}}, texts
                )
            ),
            "SatisfactionSelected": st.integers(0, 6),
            "IsContactUser": st.booleans(),
        }
    ),
)
def test_an_event_says_what_its_type_makes_meaningful(
    event: str, revision: int, time: int, fields: dict[str, Any]
) -> None:
    given_entry = entry(revision, body(event, time, **fields), received_at=time)
    callback = decode(given_entry.body, time)
    written = records.event(given_entry, callback, without_message(callback, b""))
    expected = event_pb2.SessionRecord(event=expected_event(given_entry, callback))
    assert event_pb2.SessionRecord.FromString(written) == expected


@given(
    st.builds(
        Outcome,
        st.sampled_from(Verdict),
        st.sampled_from(Reason),
        st.sampled_from(State),
        st.sampled_from(State),
    ),
    texts,
    st.sampled_from(State),
    st.integers(0, 20_000),
)
def test_a_record_and_its_event_are_joined_to_one_record(
    outcome: Outcome, event_type: str, state: State, ordinal: int
) -> None:
    event = event_pb2.Event(revision=7, raw_body=b"{}")
    expected = event_pb2.SessionRecord(
        revision=2**33,
        ordinal=ordinal,
        event=event,
        verdict=records.VERDICTS[outcome.verdict],
        rejection_reason=records.REASONS[outcome.reason],
        rejection_detail=explain(outcome, event_type),
        state_before=records.STATES[outcome.before],
        state_after=records.STATES[outcome.after],
        session_state=records.STATES[state],
        revised=ordinal > 0,
    )
    fields = records.verdict_fields(outcome, event_type, state, ordinal > 0)
    stored = records.record(fields, 2**33, ordinal)
    joined = stored + event_pb2.SessionRecord(event=event).SerializeToString()
    assert event_pb2.SessionRecord.FromString(joined) == expected


def test_a_session_has_no_field_that_is_left_empty() -> None:
    shown = set(session_pb2.Session.DESCRIPTOR.fields_by_name)
    set_apart = {"sdk_app_id", "session_id", "revision"}
    assert shown - set(Session.__struct_fields__) == set_apart | set(DERIVED)


@given(st.lists(bodies(), min_size=1, max_size=30))
def test_a_session_brought_up_to_date_is_as_one_made_anew(given_bodies: list[bytes]) -> None:
    history, shown = History(), SessionMessage(9, "s")
    for each in entries(given_bodies):
        try:
            callback = decode(each.body, each.received_at)
        except ValueError:
            continue
        history.add(HistoryEntry.of(without_message(callback, each.id), each.revision))
        written = shown.update(history.session, each.revision, history.changed)
        history.changed.clear()
        assert session_pb2.Session.FromString(written) == expected_session(history, each.revision)
        anew = SessionMessage(9, "s").update(history.session, each.revision)
        assert written == anew


def expected_stays(stays: Sequence[Stay]) -> Iterator[session_pb2.Stay]:
    ends = [*(stay.start for stay in stays), None][1:]
    for stay, end in zip(stays, ends, strict=True):
        yield session_pb2.Stay(
            state=records.STATES[stay.state],
            agent_id=stay.agent_id,
            start_time=timestamp(stay.start if end is None else min(stay.start, end)),
            end_time=None if end is None else timestamp(end),
        )


def expected_session(history: History, revision: int) -> session_pb2.Session:
    session = history.session
    made = session_pb2.Session(
        sdk_app_id=9,
        session_id="s",
        revision=revision,
        state=records.STATES[session.state],
        end_reason=records.END_REASONS[session.end_reason],
    )
    for field in session_pb2.Session.DESCRIPTOR.fields:
        value = getattr(session, field.name, None)
        if value is None or field.type == FieldDescriptor.TYPE_ENUM:
            continue
        if field.name == "stays":
            made.stays.extend(expected_stays(session.stays))
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            getattr(made, field.name).CopyFrom(TIMES[field.message_type.full_name](value))
        elif field.is_repeated:
            getattr(made, field.name).extend(value)
        else:
            setattr(made, field.name, value)
    return made

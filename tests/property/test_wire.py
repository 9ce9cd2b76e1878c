"""What is joined by hand is byte for byte what protobuf writes."""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from desk.v1 import event_pb2, session_pb2
from journal.callback import Callback, decode
from journal.entry import Entry
from service import records, wire
from service.history import History, Placed, order_key
from service.machine import Event, State
from service.records import duration, timestamp
from service.session import Outcome, Reason, Session, Verdict
from tests.support.callbacks import bodies, body, entries, entry

MESSAGES: list[type[Message]] = [
    event_pb2.Event,
    event_pb2.Message,
    event_pb2.MessageElement,
    event_pb2.SessionRecord,
    session_pb2.Session,
]
texts = st.text("a\x00é你😀", max_size=5) | st.integers(0, 300).map("é".__mul__)
int64 = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2**15)
VALUES: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: texts,
    FieldDescriptor.TYPE_BYTES: st.binary() | st.integers(120, 20_000).map(bytes),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: int64,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_ENUM: st.integers(0, 5),
}
TIMES = {"google.protobuf.Timestamp": timestamp, "google.protobuf.Duration": duration}


def written(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def test_a_number_is_written_as_protobuf_writes_it_where_it_gets_longer() -> None:
    write = wire.Encoders(event_pb2.Event).revision
    for bits in range(7, 64, 7):
        for number in (2**bits - 1, 2**bits, 2**bits + 1):
            signed = number - 2**64 if number >= 2**63 else number
            assert write(signed) == written(event_pb2.Event(revision=signed))


def test_what_precedes_a_small_number_is_made_once_and_no_other_is_kept() -> None:
    heads = wire._Heads(1, wire.VARINT)
    numbers = [-1, 0, 1, 8_191, 8_192, 2**63 - 1]
    made = [heads[number] for number in numbers]
    assert list(heads) == [0, 1, 8_191]
    assert [heads[number] for number in numbers] == made


@given(st.data(), st.sampled_from(MESSAGES))
def test_a_field_is_written_as_protobuf_writes_it(
    data: st.DataObject, message: type[Message]
) -> None:
    field = data.draw(st.sampled_from(list(message.DESCRIPTOR.fields)))
    encode = getattr(wire.Encoders(message), field.name)
    if field.type != FieldDescriptor.TYPE_MESSAGE:
        values = VALUES[field.type]
        value = data.draw(st.lists(values, max_size=3) if field.is_repeated else values)
        assert encode(value) == written(message(**{field.name: value}))
    elif make := TIMES.get(field.message_type.full_name):
        milliseconds = data.draw(st.integers(0, 253_402_300_799_999) | st.integers(0, 5_000))
        assert encode(milliseconds) == written(message(**{field.name: make(milliseconds)}))
        assert encode(None) == b""
    else:
        inner = field.message_type._concrete_class()
        expected = message(**{field.name: [inner] if field.is_repeated else inner})
        assert encode(b"") == written(expected)


def made_by_protobuf(entry: Entry, callback: Callback) -> event_pb2.Event:
    """The event, with all that its type makes meaningful."""
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
        channel_type=callback.channel_type,
        client_user_id=callback.client_user_id,
        customer_service_id=callback.customer_service_id,
        cloud_custom_data=callback.cloud_custom_data,
        agent_id=records.agent_id(callback),
    )
    if callback.event.endswith("SendMsg"):
        message = records.message(callback.message_key, callback.message)
        made.message.CopyFrom(event_pb2.Message.FromString(message))
    if callback.event == Event.AGENT_FORWARD:
        made.forward_from_agent_id = callback.forward_from_agent_id
    if callback.event == Event.SATISFACTION_SELECTED:
        made.satisfaction = callback.satisfaction or 0
    if callback.event in (Event.SESSION_BEGIN, Event.TRANSFER_TO_HUMAN_SUCCESS):
        made.agent_contacted_user = callback.is_contact_user
    return made


@given(
    st.sampled_from([*Event, "Brand.New"]),
    st.integers(1, 2**40),
    st.integers(1, 253_402_300_799_999),
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
def test_an_event_is_written_as_protobuf_writes_it(
    event: str, revision: int, time: int, fields: dict[str, Any]
) -> None:
    given_entry = entry(revision, body(event, time, **fields), received_at=time)
    callback = decode(given_entry.body)
    expected = made_by_protobuf(given_entry, callback)
    assert records.event(given_entry, callback) == written(expected)


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
    st.integers(0, 2**20),
)
def test_a_record_is_written_as_protobuf_writes_it(
    outcome: Outcome, detail: str, state: State, ordinal: int
) -> None:
    event = event_pb2.Event(revision=7, raw_body=b"{}")
    made = event_pb2.SessionRecord(
        revision=2**33,
        ordinal=ordinal,
        event=event,
        verdict=records.VERDICTS[outcome.verdict],
        rejection_reason=records.REASONS[outcome.reason],
        rejection_detail=detail,
        state_before=records.STATES[outcome.before],
        state_after=records.STATES[outcome.after],
        session_state=records.STATES[state],
        revised=ordinal > 0,
    )
    judged = records.judged(outcome, detail, state)
    record = records.record(2**33, ordinal, written(event), judged)
    assert record == written(made)
    assert records.event_of(record) == written(event)


def test_a_session_has_no_field_that_is_left_empty() -> None:
    shown = set(session_pb2.Session.DESCRIPTOR.fields_by_name)
    written_by_hand = {"sdk_app_id", "session_id", "revision", "first_response"}
    assert shown - set(Session.__struct_fields__) == written_by_hand


@given(st.lists(bodies(), min_size=1, max_size=30))
def test_a_session_is_written_as_protobuf_writes_it(given_bodies: list[bytes]) -> None:
    history, shown = History(), records.SessionMessage(9, "s")
    for each in entries(given_bodies):
        try:
            callback = decode(each.body)
        except ValueError:
            continue
        history.add(Placed(order_key(callback, each.id), each.revision, callback))
        assert shown.update(history.session, each.revision) == written(
            session_made_by_protobuf(history, each.revision)
        )


def session_made_by_protobuf(history: History, revision: int) -> session_pb2.Session:
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
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            getattr(made, field.name).CopyFrom(TIMES[field.message_type.full_name](value))
        elif field.is_repeated:
            getattr(made, field.name).extend(value)
        else:
            setattr(made, field.name, value)
    return made

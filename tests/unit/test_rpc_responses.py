"""Messages put together from bytes are what protobuf would have made of them."""

import pytest
from google.protobuf.message import Message

from desk.v1.event_pb2 import Event, SessionRecord
from desk.v1.event_service_pb2 import (
    ListRejectionsResponse,
    RecordBatch,
    SessionBatch,
    SubscribeResponse,
)
from desk.v1.session_pb2 import Session, SessionKey
from desk.v1.session_service_pb2 import (
    BatchGetSessionsResponse,
    GetSessionResponse,
    ListSessionsResponse,
)
from desk.v1.status_pb2 import ResponseHeader
from service.positions import last_of, position_of
from service.rpc import responses
from service.rpc.responses import BatchFormat, batches, encode

HEADER = ResponseHeader(journal_id="j" * 32, revision=7)


def test_numbers_are_written_as_protobuf_writes_them():
    for bits in range(0, 63, 7):
        for number in {2**bits - 1, 2**bits, 2**bits + 1} - {0}:
            assert Event(revision=number).SerializeToString() == b"\x08" + responses.varint(number)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 3_000_000])
def test_records_of_any_length_are_framed_as_protobuf_frames_them(size: int):
    records = [SessionRecord(revision=n, event=Event(raw_body=b"x" * size)) for n in (6, 7)]
    session = Session(session_id="s" * min(size, 20_000))
    blob = session.SerializeToString()
    rows = [(0, record.SerializeToString(), blob) for record in records]
    plain = SubscribeResponse(header=HEADER, records=RecordBatch(records=records))
    assert responses.records(HEADER, rows, with_session=False) == plain.SerializeToString()
    for record in records:
        record.session.CopyFrom(session)
    whole = SubscribeResponse(header=HEADER, records=RecordBatch(records=records))
    assert responses.records(HEADER, rows, with_session=True) == whole.SerializeToString()


def test_a_record_of_a_session_that_has_not_begun_has_none():
    record = SessionRecord(revision=7)
    made = responses.records(HEADER, [(0, record.SerializeToString(), None)], with_session=True)
    assert not SubscribeResponse.FromString(made).records.records[0].HasField("session")


@pytest.mark.parametrize("complete", [True, False])
def test_sessions_are_framed_as_protobuf_frames_them(complete: bool):
    sessions = [Session(session_id="a"), Session(session_id="b" * 200)]
    blobs = [session.SerializeToString() for session in sessions]
    whole = SubscribeResponse(
        header=HEADER, sessions=SessionBatch(sessions=sessions, complete=complete)
    )
    assert responses.sessions(HEADER, blobs, complete=complete) == whole.SerializeToString()


@pytest.mark.parametrize("size", [1, 127, 128, 20_000])
def test_a_session_is_answered_as_protobuf_answers_it(size: int):
    session = Session(session_id="s" * size)
    whole = GetSessionResponse(header=HEADER, session=session)
    assert (
        responses.answer(HEADER, [session.SerializeToString()], GetSessionResponse())
        == whole.SerializeToString()
    )


@pytest.mark.parametrize("count", [0, 1, 300])
def test_lists_are_answered_as_protobuf_answers_them(count: int):
    sessions = [Session(session_id="s" * n) for n in range(count)]
    records = [SessionRecord(revision=n, event=Event(raw_body=b"x" * n)) for n in range(count)]
    blobs = [session.SerializeToString() for session in sessions]
    for missing in ([], [SessionKey(sdk_app_id=1, session_id="gone"), SessionKey()]):
        batch = BatchGetSessionsResponse(header=HEADER, sessions=sessions, missing=missing)
        rest: Message = BatchGetSessionsResponse(missing=missing)
        assert responses.answer(HEADER, blobs, rest) == batch.SerializeToString()
    for token in ("", "t" * 60):
        page = ListSessionsResponse(header=HEADER, sessions=sessions, next_page_token=token)
        rest = ListSessionsResponse(next_page_token=token)
        assert responses.answer(HEADER, blobs, rest) == page.SerializeToString()
        listed = ListRejectionsResponse(header=HEADER, records=records, next_page_token=token)
        rest = ListRejectionsResponse(next_page_token=token)
        stored = [record.SerializeToString() for record in records]
        assert responses.answer(HEADER, stored, rest) == listed.SerializeToString()


def rows(*sizes: int) -> list[tuple[int, bytes]]:
    """Revisions 1, 2, … of that many records each."""
    return [
        (position_of(revision) + ordinal, b"")
        for revision, size in enumerate(sizes, 1)
        for ordinal in range(size)
    ]


@pytest.mark.parametrize(
    ("sizes", "most", "expected"),
    [
        ((), 2, []),
        ((1, 1, 1), 2, [2, 1]),
        ((1, 1, 1, 1), 2, [2, 2]),
        ((1, 2, 1), 2, [1, 2, 1]),
        ((5, 1), 2, [5, 1]),
        ((1, 5), 2, [1, 5]),
        ((1, 5, 5, 1, 1), 3, [1, 5, 5, 2]),
        ((3,), 3, [3]),
        ((3,), 500, [3]),
    ],
)
def test_a_batch_exceeds_its_size_only_to_complete_a_revision(sizes, most, expected):
    made = list(batches(rows(*sizes), last_of(len(sizes) + 3), most))
    assert [len(batch) for batch, _ in made] == expected
    assert [row for batch, _ in made for row in batch] == rows(*sizes)
    for batch, end in made[:-1]:
        assert end == last_of(batch[-1][0] >> 20)
    if made:
        assert made[-1][1] == last_of(len(sizes) + 3)


def test_messages_carry_the_revision_to_resume_after():
    encoded = encode("j", rows(1, 1, 2), last_of(9), BatchFormat(1, with_session=False))
    headers = [SubscribeResponse.FromString(each).header.revision for each in encoded.messages]
    assert headers == [1, 2, 9]
    part = encode("j", rows(4), position_of(1) + 3, BatchFormat(1, with_session=False))
    assert [SubscribeResponse.FromString(each).header.revision for each in part.messages] == [0]

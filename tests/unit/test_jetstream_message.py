"""An entry as a message: readable, and read exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.damage import changed
from journal.entry import Kind, NewEntry, is_storable, numbered
from journal.jetstream_message import entry_of, headers_of, subject_of
from tests.support.journals import new_entry

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def message(entry: NewEntry) -> tuple[str, dict[str, str], bytes]:
    return subject_of("desk", entry), headers_of(entry), entry.body


def test_the_headers_of_an_ordinary_entry_are_plain_text() -> None:
    entry = new_entry("a", request_id="b1946ac9-2c6f", platform="")
    assert headers_of(entry) == {
        "Nats-Msg-Id": entry.id.hex(),
        "Desk-Received-At": "1700000000000",
        "Desk-Request-Id": "b1946ac9-2c6f",
        "Desk-Client-Ip": "203.0.113.7",
    }


@given(
    st.binary(min_size=16, max_size=16),
    st.integers(1, 2**63 - 1),
    st.integers(0, 2**63 - 1),
    st.tuples(text, text, text),
    st.binary(max_size=50),
    st.sampled_from(Kind),
)
def test_an_entry_is_read_exactly_as_it_was_written(
    id_: bytes, app: int, at: int, texts: tuple[str, str, str], body: bytes, kind: Kind
) -> None:
    entry = NewEntry(
        id=id_,
        sdk_app_id=app,
        received_at=at,
        request_id=texts[0],
        client_ip=texts[1],
        platform=texts[2],
        body=body,
        kind=kind,
    )
    subject, headers, body = message(entry)
    for value in headers.values():
        assert value == value.strip()
        assert value.isascii()
        assert value.isprintable()
    assert entry_of(7, subject, headers, body) == numbered(entry, 7)


def test_all_callbacks_of_a_session_have_one_subject() -> None:
    bodies = [b'{"SessionId":"s","n":1}', b'{"n": 2, "SessionId" : "s"}']
    subjects = {subject_of("desk", new_entry(body=body)) for body in bodies}
    (subject,) = subjects
    stream, app, part = subject.split(".")
    assert (stream, app) == ("desk", "1400000001")
    assert len(bytes.fromhex(part)) == 1


def test_the_sessions_of_an_app_are_spread_over_many_subjects() -> None:
    bodies = [b'{"SessionId":"session-%d"}' % n for n in range(1000)]
    assert len({subject_of("desk", new_entry(body=body)) for body in bodies}) > 200


@pytest.mark.parametrize("body", [b"", b"no json", b'{"SessionId":5}', b"[" * 100_000, b"\xff"])
def test_a_body_that_names_no_session_has_a_subject_all_the_same(body: bytes) -> None:
    assert subject_of("desk", new_entry(body=body)).startswith("desk.1400000001.")


OURS = {"Nats-Msg-Id": "01" * 16, "Desk-Received-At": "1"}


@pytest.mark.parametrize(
    ("subject", "headers"),
    [
        ("desk.1.aa", {}),
        ("desk", OURS),
        ("desk.x.aa", OURS),
        ("desk.0.aa", OURS),
        (f"desk.{2**63}.aa", OURS),
        ("desk.1.aa", OURS | {"Nats-Msg-Id": "x"}),
        ("desk.1.aa", OURS | {"Nats-Msg-Id": "01" * 15}),
        ("desk.1.aa", OURS | {"Desk-Received-At": "soon"}),
        ("desk.1.aa", OURS | {"Desk-Received-At": "-1"}),
        ("desk.1.aa", OURS | {"Desk-Received-At": str(2**63)}),
        ("desk.1.aa", OURS | {"Desk-Kind": "0"}),
        ("desk.1.aa", OURS | {"Desk-Platform": "é"}),
        ("desk.1.aa", OURS | {"Desk-Kind": str(2**63)}),
    ],
)
def test_a_message_of_somebody_else_is_an_entry_that_counts_as_damaged(
    subject: str, headers: dict[str, str]
) -> None:
    entry = entry_of(7, subject, headers, b"hello")
    assert (entry.revision, entry.body) == (7, b"hello")
    assert is_storable(entry)
    assert changed(entry)
    assert entry.id != entry_of(8, subject, headers, b"hello").id

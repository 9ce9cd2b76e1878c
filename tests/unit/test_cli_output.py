"""Answers as JSON and as text."""

import json

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st

from desk.v1.event_pb2 import Event, SessionRecord
from desk.v1.session_pb2 import Session
from display.documents import as_json
from display.texts import enum_name, format_duration, printable


def test_large_integers_are_numbers_and_unset_messages_are_left_out():
    document = as_json(Session(sdk_app_id=2**62, agent_ids=["a", "b"]))
    assert document["sdk_app_id"] == 2**62
    assert document["agent_ids"] == ["a", "b"]
    assert document["state"] == "SESSION_STATE_UNSPECIFIED"
    assert "begun_at" not in document
    assert "queue_wait" not in document


def test_a_duration_is_also_a_number_of_seconds():
    document = as_json(Session(queue_wait=Duration(seconds=38, nanos=750_000_000)))
    assert document["queue_wait"] == "38.750s"
    assert document["queue_wait_seconds"] == 38.75
    assert "handle_time_seconds" not in document


@given(
    st.builds(
        SessionRecord,
        revision=st.integers(0, 2**63 - 1),
        revised=st.booleans(),
        verdict=st.integers(0, 3),
        event=st.builds(
            Event,
            session_id=st.text(),
            raw_body=st.binary(),
            satisfaction=st.integers(0, 5),
        ),
        late_by=st.builds(Duration, seconds=st.integers(0, 10**9)),
    )
)
def test_what_was_printed_can_be_read_back_as_the_same_message(record):
    printed = json.loads(json.dumps(as_json(record)))
    assert ParseDict(printed, SessionRecord(), ignore_unknown_fields=True) == record


def test_a_value_of_a_newer_service_is_shown_as_its_number():
    session = Session(state=99)
    assert as_json(session)["state"] == 99
    assert enum_name(session, "state") == "99"


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0.0s"),
        (449, "0.4s"),
        (9_949, "9.9s"),
        (10_000, "10s"),
        (59_999, "59s"),
        (125_000, "2m05s"),
        (3_599_999, "59m59s"),
        (3_720_000, "1h02m"),
        (86_399_999, "23h59m"),
        (360_000_000, "4d04h"),
    ],
)
def test_a_duration_is_two_figures(milliseconds, text):
    duration = Duration()
    duration.FromMilliseconds(milliseconds)
    assert format_duration(duration) == text


@given(st.text())
def test_nothing_that_is_shown_can_steer_a_terminal(text):
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)

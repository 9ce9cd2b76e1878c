"""Bodies that are callbacks and bodies that are not; the identity of each."""

import json
from contextlib import suppress
from hashlib import blake2b
from time import thread_time
from typing import Any

import pytest

from callback.decoder import (
    MAX_AHEAD,
    MAX_BRACKETS,
    MAX_DEPTH,
    MAX_EVENT_NAME,
    MAX_EVENT_TIME,
    MAX_SESSION_ID,
    MIN_EVENT_TIME,
    Callback,
    Malformed,
    identify,
)
from callback.decoder import read as read_body
from tests.support.callbacks import decode

MINIMAL = {"SessionId": "s", "Event": "SessionBegin", "EventTime": 1_700_000_000_000}
LIMIT = 256 * 1024
NESTED = b"[" * 60 + b"]" * 60


def read(body: bytes) -> Callback:
    """Read a body that was received late enough for any event."""
    return decode(body, MAX_EVENT_TIME)


def body(**changes: Any) -> bytes:
    return json.dumps(MINIMAL | changes).encode()


def without(field: str) -> bytes:
    return json.dumps({k: v for k, v in MINIMAL.items() if k != field}).encode()


def test_the_three_required_fields_make_a_callback() -> None:
    callback = read(body())
    assert (callback.session_id, callback.event, callback.event_time) == tuple(MINIMAL.values())
    assert callback.satisfaction is None
    assert not callback.message
    assert not callback.is_contact_user
    assert not callback.agent_id


def test_every_field_is_read() -> None:
    message = [{"MsgType": "TIMTextElem", "MsgContent": {"Text": "hi"}}]
    callback = read(
        body(
            CallbackCommand="Desk.SessionEventNotify",
            ChannelType="c",
            ClientUserId="u",
            CustomerServiceId="n",
            AgentId="a",
            ForwardFromAgentId="f",
            MsgKey="k",
            MsgBody=message,
            CloudCustomData="d",
            IsContactUser=True,
            SatisfactionSelected=5,
        )
    )
    assert callback.channel_type == "c"
    assert callback.client_user_id == "u"
    assert callback.customer_service_id == "n"
    assert callback.agent_id == "a"
    assert callback.forward_from_agent_id == "f"
    assert callback.message_key == "k"
    assert callback.message == message
    assert callback.cloud_custom_data == "d"
    assert callback.is_contact_user is True
    assert callback.satisfaction == 5


@pytest.mark.parametrize("other", [None, 7, 1.5, True, [], {}])
def test_an_optional_text_of_another_type_is_empty(other: object) -> None:
    assert read(body(AgentId=other)).agent_id == ""


@pytest.mark.parametrize("other", [None, "true", 1, "", []])
def test_only_true_is_contact_user(other: object) -> None:
    assert read(body(IsContactUser=other)).is_contact_user is False


@pytest.mark.parametrize("other", [None, 0, 6, -1, "5", 5.0, True, 10**30])
def test_a_rating_that_is_none_of_1_to_5_is_none(other: object) -> None:
    assert read(body(SatisfactionSelected=other)).satisfaction is None


@pytest.mark.parametrize("field", MINIMAL)
def test_a_missing_required_field_is_named(field: str) -> None:
    with pytest.raises(Malformed, match=f"{field} is missing"):
        read(without(field))


@pytest.mark.parametrize(
    "changes",
    [
        {"SessionId": ""},
        {"SessionId": 7},
        {"SessionId": None},
        {"SessionId": "a\nb"},
        {"SessionId": "\x00"},
        {"SessionId": "\x7f"},
        {"SessionId": "s" * (MAX_SESSION_ID + 1)},
        {"Event": ""},
        {"Event": ["SessionBegin"]},
        {"Event": "e" * (MAX_EVENT_NAME + 1)},
        {"EventTime": "1700000000000"},
        {"EventTime": 1.7e12},
        {"EventTime": True},
        {"EventTime": None},
        {"EventTime": 0},
        {"EventTime": -1},
        {"EventTime": MIN_EVENT_TIME - 1},
        {"EventTime": 1_700_000_000},
        {"EventTime": MAX_EVENT_TIME + 1},
        {"EventTime": 2**63},
        {"EventTime": 2**64},
        {"EventTime": 10**100},
        {"CallbackCommand": "Desk.Other"},
        {"CallbackCommand": None},
    ],
)
def test_a_field_that_is_unusable_is_malformed(changes: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        read(body(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"SessionId": "s" * MAX_SESSION_ID},
        {"SessionId": "会话 🙂"},
        {"Event": "e" * MAX_EVENT_NAME},
        {"EventTime": MIN_EVENT_TIME},
        {"EventTime": MAX_EVENT_TIME},
        {"Unknown": {"of": ["any", "shape", None, 1e300, 2**63]}},
    ],
)
def test_the_limits_themselves_and_unknown_fields_are_allowed(changes: dict[str, Any]) -> None:
    read(body(**changes))


NOT_JSON = {
    "empty": b"",
    "blank": b" \n",
    "text": b"hello",
    "truncated": body()[:-1],
    "trailing": body() + b"x",
    "two documents": body() + body(),
    "NaN": body()[:-1] + b', "x": NaN}',
    "Infinity": body()[:-1] + b', "x": -Infinity}',
    "a float out of range": body()[:-1] + b', "x": 1e999}',
    "an integer of 5000 digits": body()[:-1] + b', "x": ' + b"9" * 5000 + b"}",
    "bad UTF-8": body()[:-1] + b', "x": "\xff"}',
    "surrogate in UTF-8": body()[:-1] + b', "x": "\xed\xa0\x80"}',
    "overlong UTF-8": body()[:-1] + b', "x": "\xc0\xaf"}',
    "byte order mark": b"\xef\xbb\xbf" + body(),
    "UTF-16": body().decode().encode("utf-16"),
    "raw control character": body()[:-1] + b', "x": "\n"}',
    "comment": b"/* */" + body(),
    "single quotes": body().replace(b'"', b"'"),
    "nested too deep": b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
}


@pytest.mark.parametrize("name", NOT_JSON)
def test_what_is_no_json_is_malformed_and_identified_by_its_bytes(name: str) -> None:
    bad = NOT_JSON[name]
    with pytest.raises(Malformed) as error:
        read(bad)
    assert len(str(error.value)) < 200
    assert identify(1, bad) == identify(1, bytes(bad))
    assert identify(1, bad) != identify(1, bad + b" ")


LONE = {
    "high": b"\\ud800",
    "low": b"\\uDC00",
    "the wrong way round": b"\\udc00\\ud800",
    "two high": b"\\ud83d\\ud83d",
    "high, then something else": b"\\ud83d\\u0041",
    "behind an escaped backslash": b"\\\\\\ud83d",
}
MENDED = {
    "high": "\ufffd",
    "low": "\ufffd",
    "the wrong way round": "\ufffd\ufffd",
    "two high": "\ufffd\ufffd",
    "high, then something else": "\ufffdA",
    "behind an escaped backslash": "\\\ufffd",
}


@pytest.mark.parametrize("name", LONE)
def test_a_lone_surrogate_in_a_text_becomes_the_replacement_character(name: str) -> None:
    written = b'{"SessionId": "s", "Event": "e", "EventTime": 1700000000000, "AgentId": "%b"}'
    broken = written % LONE[name]
    assert read(broken).agent_id == MENDED[name]
    assert read_body(1, broken, MAX_EVENT_TIME).problem == ""
    assert identify(1, broken) == blake2b(b"1\n" + broken, digest_size=16).digest()


def test_whole_surrogate_pairs_and_what_only_looks_like_one_are_left_as_they_are() -> None:
    text = b'"\\ud83d\\ude00 \\\\ud83d \\ud83d"'
    broken = body()[:-1] + b', "AgentId": ' + text + b"}"
    assert read(broken).agent_id == "\U0001f600 \\ud83d \ufffd"


@pytest.mark.parametrize("field", ["SessionId", "Event"])
def test_a_lone_surrogate_in_a_name_that_must_be_right_is_malformed(field: str) -> None:
    document = body(**{field: "x\ud83d", "AgentId": "\ufffd"})
    with pytest.raises(Malformed, match=f"{field} has a lone surrogate"):
        read(document)
    read(body(**{field: "x\ufffd", "AgentId": "\ud83d"}))


def test_a_lone_surrogate_does_not_excuse_what_else_is_wrong() -> None:
    with pytest.raises(Malformed, match="not JSON"):
        read(b'{"SessionId": "\\ud83d", }')


def test_an_event_is_at_most_24_hours_later_than_its_callback() -> None:
    time = MINIMAL["EventTime"]
    assert decode(body(), time - MAX_AHEAD).event_time == time  # type: ignore[operator]
    early = time - MAX_AHEAD - 1  # type: ignore[operator]
    with pytest.raises(Malformed, match="more than 24 hours after"):
        decode(body(), early)
    reading = read_body(1, body(), early)
    assert reading.identity == identify(1, body())
    assert reading.callback == decode(body(), time)  # type: ignore[arg-type]
    assert reading.problem == "EventTime is more than 24 hours after the callback was received"


def test_a_time_in_seconds_is_named_as_what_it_seems_to_be() -> None:
    with pytest.raises(Malformed, match="before 2015: perhaps it is in seconds"):
        read(body(EventTime=1_700_000_000))


@pytest.mark.parametrize("field", ["AgentId", "ClientUserId", "ChannelType", "MsgKey"])
def test_a_name_longer_than_256_bytes_is_absent(field: str) -> None:
    attributes = {"AgentId": "agent_id", "ClientUserId": "client_user_id"}
    attribute = attributes.get(field, "channel_type" if field == "ChannelType" else "message_key")
    for name, fits in (
        ("x" * 256, True),
        ("x" * 257, False),
        ("你" * 85, True),
        ("你" * 86, False),
    ):
        assert getattr(read(body(**{field: name})), attribute) == (name if fits else "")


@pytest.mark.parametrize("other", [b"[]", b"null", b'"text"', b"1", b"true"])
def test_json_that_is_no_object_is_malformed(other: bytes) -> None:
    with pytest.raises(Malformed, match="not a JSON object"):
        read(other)


def test_nesting_is_allowed_to_the_limit_and_brackets_in_strings_do_not_count() -> None:
    deep: Any = "[{" * 1000 + '\\"' * 3
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    read(body(x=deep))
    with pytest.raises(Malformed, match="nested deeper"):
        read(body(x=[deep]))


def test_lists_and_objects_are_bounded_and_brackets_in_strings_do_not_count() -> None:
    most: Any = [[]] * (MAX_BRACKETS // 2) + [{}] * (MAX_BRACKETS // 2 - 2)
    read(body(x=most, y='[\\"{' * MAX_BRACKETS))
    with pytest.raises(Malformed, match="more than 20000 lists and objects"):
        read(body(x=[*most, {}]))
    assert "20000" in read_body(1, body(x=[*most, {}]), MAX_EVENT_TIME).problem


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**40, 1e300])
def test_a_callback_with_a_huge_number_in_a_field_nobody_reads_has_an_identity(
    number: float,
) -> None:
    read(body(x=number))
    assert identify(1, body(x=number)) == identify(1, body(x=number).replace(b" ", b"\n"))
    assert identify(1, body(x=number)) != identify(1, body(x=1))


def test_of_duplicate_keys_the_last_counts_for_identity_too() -> None:
    twice = b'{"AgentId": "first",' + body(AgentId="last")[1:]
    assert read(twice).agent_id == "last"
    assert identify(1, twice) == identify(1, body(AgentId="last"))


def test_identity_has_16_bytes_and_tells_apps_apart() -> None:
    assert len(identify(1, body())) == 16
    assert identify(1, body()) != identify(2, body())
    assert identify(1, b"1") != identify(11, b"")


def test_identity_never_changes() -> None:
    """Stored ids depend on it: a retry after an upgrade must still be a duplicate."""
    untidy = b'{"b": [1, 2.5, "\\u4f60"], "a": null}'
    canonical = '1400000001\n{"a":null,"b":[1,2.5,"你"]}'.encode()
    assert identify(1400000001, untidy) == blake2b(canonical, digest_size=16).digest()
    assert identify(7, b"no json") == blake2b(b"7\nno json", digest_size=16).digest()


def processor_time(hostile: bytes) -> float:
    """Measure gateway and fold with a body: seconds of the processor, the least of five."""
    seconds = []
    for _ in range(5):
        begin = thread_time()
        read_body(1, hostile, MAX_EVENT_TIME)
        with suppress(Malformed):
            read(hostile)
        seconds.append(thread_time() - begin)
    return min(seconds)


@pytest.mark.parametrize("prefix", [b"", b'"', b"[" * 65, b'["\\ud800",'])
@pytest.mark.parametrize(
    "unit",
    [
        *(b"[", b"]", b"[]", b'{"a":', b'"', b'\\"', b"\\", b'"[', b"0", b" ", b"\xff"),
        *(b"\\u", b"\\ud8", b"\\ud8zz", b"\\ud800", b"\\ud83d\\ude00", b"\\n", b"\\\\u"),
        NESTED + b",",
    ],
)
def test_a_hostile_body_takes_time_in_proportion_to_its_length(prefix: bytes, unit: bytes) -> None:
    whole = prefix + unit * ((LIMIT - len(prefix)) // len(unit))
    part = whole[: LIMIT // 16]
    # 16 times as much is linear, 256 times quadratic.
    assert processor_time(whole) < 64 * processor_time(part)


@pytest.mark.parametrize("number", [b"1.7976931348623157e308", b"2.2250738585072011e-308"])
def test_floats_near_the_limits_take_no_longer_than_others(number: bytes) -> None:
    def with_numbers(number: bytes) -> bytes:
        numbers = b",".join([number] * (LIMIT // (len(number) + 1) - 10))
        return body().replace(b"}", b', "MsgBody": [%b]}' % numbers)

    hostile = with_numbers(number)
    assert read_body(1, hostile, MAX_EVENT_TIME).problem == ""
    assert processor_time(hostile) < 4 * processor_time(with_numbers(b"0.1"))


@pytest.mark.parametrize("number", ["1e400", "-1e400"])
def test_a_number_that_is_too_large_makes_a_body_no_json(number: str) -> None:
    hostile = body().replace(b"}", b', "MsgBody": [%b]}' % number.encode())
    with pytest.raises(Malformed, match="not JSON"):
        read(hostile)
    assert read_body(1, hostile, MAX_EVENT_TIME).problem == "the body is not JSON"

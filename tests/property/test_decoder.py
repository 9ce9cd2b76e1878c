"""Properties of the decoder, for any body."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from callback.decoder import (
    COMMAND,
    MAX_DEPTH,
    MAX_EVENT_TIME,
    Callback,
    Malformed,
    identify,
    read,
)
from tests.support.callbacks import decode

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALAR = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
DOCUMENTS = st.recursive(
    SCALAR | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT, DOCUMENTS)
NOON = 1_700_000_000_000
LATE = MAX_EVENT_TIME
"""A time of receipt at which any event is plausible."""
APPS = st.integers(1, 2**63 - 1)


def shuffled(value: Any, draw: Any) -> Any:
    """Return the document with the keys of every object in another order."""
    if isinstance(value, dict):
        keys = draw(st.permutations(list(value)))
        return {key: shuffled(value[key], draw) for key in keys}
    if isinstance(value, list):
        return [shuffled(item, draw) for item in value]
    return value


def fault_of(body: bytes) -> str:
    """Return the fault of a body, "" if it has none. Any other error fails the test."""
    try:
        decode(body, LATE)
    except Malformed as error:
        return str(error)
    return ""


@settings(max_examples=60)
@given(st.data(), OBJECTS, APPS, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_identity_does_not_depend_on_key_order_white_space_or_escapes(
    data: st.DataObject, document: Any, app: int, ascii_only: bool, indent: Any
) -> None:
    other = json.dumps(shuffled(document, data.draw), ensure_ascii=ascii_only, indent=indent)
    assert identify(app, other.encode()) == identify(app, json.dumps(document).encode())


@settings(max_examples=60)
@given(OBJECTS, OBJECTS, APPS)
def test_different_documents_have_different_identities(one: Any, two: Any, app: int) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    first, second = (identify(app, json.dumps(document).encode()) for document in (one, two))
    assert same or first != second


@given(st.binary() | st.text(alphabet='[]{}"\\,:0 ', max_size=200).map(str.encode))
@settings(max_examples=200)
def test_any_bytes_have_an_identity_and_are_a_callback_or_malformed(body: bytes) -> None:
    assert identify(1, body) == identify(1, body)
    assert len(fault_of(body)) < 200


@given(st.text(alphabet='[]{}"\\,:0 ', max_size=400))
@settings(max_examples=200)
def test_nesting_is_never_refused_below_the_limit(text: str) -> None:
    """Brackets inside strings, however escaped, do not make a body deep."""
    body = json.dumps({"SessionId": "s", "Event": "e", "EventTime": NOON, "x": text * 3}).encode()
    assert decode(body, LATE).session_id == "s"


@given(st.integers(1, 200), st.text(alphabet='[]{}"\\', max_size=20))
def test_nesting_is_measured_exactly(depth: int, text: str) -> None:
    body = b'{"a":' * depth + msgspec.json.encode(text) + b"}" * depth
    assert ("nested deeper" in fault_of(body)) == (depth > MAX_DEPTH)


@settings(max_examples=60)
@given(OBJECTS)
def test_what_decodes_can_be_encoded_as_utf_8(document: Any) -> None:
    document |= {"SessionId": "s", "Event": "e", "EventTime": NOON}
    document.pop("CallbackCommand", None)
    callback = decode(json.dumps(document).encode(), LATE)
    msgspec.json.encode(callback)


SHORT = st.text("sé🙂 \x1f\x7f\x80\u200b", max_size=3)
FIELDS = {
    "CallbackCommand": st.just(COMMAND) | DOCUMENTS,
    "SessionId": SHORT | st.sampled_from(["s" * 256, "s" * 257]),
    "Event": SHORT | st.sampled_from(["e" * 128, "e" * 129]),
    "EventTime": st.integers()
    | st.sampled_from([NOON, MAX_EVENT_TIME, MAX_EVENT_TIME + 1, 1.0, True]),
    "SatisfactionSelected": st.integers(-1, 6) | st.sampled_from([5.0, True, 10**30]),
    "IsContactUser": st.booleans() | st.sampled_from([0, 1]),
    "MsgBody": st.lists(DOCUMENTS, max_size=2),
}
"""Values of the fields of a callback, right or wrong; those not named here are texts."""
NAMES = [each.encode_name for each in msgspec.structs.fields(Callback)]


@st.composite
def callbacks(draw: st.DrawFn) -> dict[str, Any]:
    """Draw documents like callbacks, in which any field may be wrong, but mostly few are."""
    document = {"SessionId": "s", "Event": "e", "EventTime": NOON}
    for name in draw(st.lists(st.sampled_from([*NAMES, "Other"]), max_size=4)):
        usual = FIELDS.get(
            name, SHORT | st.sampled_from(["x" * 64, "你" * 65, "你" * 86, "x" * 257])
        )
        document[name] = draw(usual | SCALAR | st.just([]))
    document.pop(draw(st.sampled_from([None, None, None, *NAMES[:3]])), None)
    return document


@settings(max_examples=400)
@given(callbacks())
@example({"SessionId": "s\x1f", "Event": "e", "EventTime": NOON})
@example({"SessionId": "s", "Event": "e\x7f", "EventTime": NOON})
def test_a_field_that_we_do_not_know_changes_nothing(document: Any) -> None:
    """A callback without such a field is read by the parser alone, one with it field by field."""
    known, more = (json.dumps(each).encode() for each in (document, document | {"Unknown": 0}))
    assert verdict(known) == verdict(more)


def verdict(body: bytes) -> dict[str, Any] | str:
    """Return the fields of the callback that are not empty, or the message of the error."""
    try:
        fields = msgspec.structs.asdict(decode(body, LATE))
        return {name: value for name, value in fields.items() if value and name != "command"}
    except Malformed as error:
        return str(error)


@settings(max_examples=100)
@given((callbacks() | DOCUMENTS).map(json.dumps).map(str.encode) | st.binary(), APPS)
def test_what_is_read_early_has_the_same_identity_and_content(body: bytes, app: int) -> None:
    early, late = read(app, body, 0), read(app, body, LATE)
    assert (early.identity, early.callback) == (late.identity, late.callback)
    assert late.identity == identify(app, body)
    assert (late.callback is None) == bool(late.problem)


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1, 5_000])
def test_a_message_that_is_nested_too_deep_is_so_for_gateway_and_fold_alike(depth: int) -> None:
    message = b"[" * (depth - 1) + b"]" * (depth - 1)
    body = b'{"SessionId":"s","Event":"e","EventTime":1700000000000,"MsgBody":%b}' % message
    assert read(1, body, LATE).problem == fault_of(body)
    assert ("nested deeper" in fault_of(body)) == (depth > MAX_DEPTH)


FRAGMENTS = [
    *(b'"s"', b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\xff"', b'"\\x"', b'"\t"', b'"\\u0000"', b"s"),
    *(b"1", b"-0", b"1.0", b"1e3", b"1e999", b"1" * 400, b"01", b"true", b"null", b"NaN"),
    *(b"[]", b"[1,]", b'["\xff"]', b'["\\ud800"]', b"[1e999]", b"{}", b'{"a":"\xff"}', b"[" * 70),
]
"""JSON, right or wrong, as a value may be written."""


@settings(max_examples=400)
@given(
    st.lists(st.tuples(st.sampled_from([*NAMES, "Other"]), st.sampled_from(FRAGMENTS)), max_size=3),
    st.sampled_from([b"}", b"}", b"} ", b"},", b""]),
)
def test_a_field_that_we_do_not_know_changes_nothing_in_a_body_that_may_be_no_json(
    fields: list[tuple[str, bytes]], end: bytes
) -> None:
    """Fields may be repeated, of any type, or no JSON."""
    written = [b'"%b":%b' % (name.encode(), value) for name, value in fields]
    body = b",".join([b'{"SessionId":"s","Event":"e","EventTime":1700000000000', *written]) + end
    assert verdict(body) == verdict(body.replace(b"{", b'{"Unknown":0,', 1))

"""What holds for the decoder whatever comes."""

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.callback import MAX_DEPTH, Malformed, decode, identify

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
APPS = st.integers(1, 2**63 - 1)


def shuffled(value: Any, draw: Any) -> Any:
    """The same document with the keys of every object in another order."""
    if isinstance(value, dict):
        keys = draw(st.permutations(list(value)))
        return {key: shuffled(value[key], draw) for key in keys}
    if isinstance(value, list):
        return [shuffled(item, draw) for item in value]
    return value


def complaint(body: bytes) -> str:
    """Why `body` is malformed; "" if it is a callback. Any other error fails the test."""
    try:
        decode(body)
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
    assert len(complaint(body)) < 200


@given(st.text(alphabet='[]{}"\\,:0 ', max_size=400))
@settings(max_examples=200)
def test_nesting_is_never_refused_below_the_limit(text: str) -> None:
    """Brackets inside strings, however escaped, do not make a body deep."""
    body = json.dumps({"SessionId": "s", "Event": "e", "EventTime": 1, "x": text * 3}).encode()
    assert decode(body).session_id == "s"


@given(st.integers(1, 200), st.text(alphabet='[]{}"\\', max_size=20))
def test_nesting_is_measured_exactly(depth: int, text: str) -> None:
    body = b'{"a":' * depth + msgspec.json.encode(text) + b"}" * depth
    assert ("nested deeper" in complaint(body)) == (depth > MAX_DEPTH)


@settings(max_examples=60)
@given(OBJECTS)
def test_what_decodes_can_be_encoded_as_utf_8(document: Any) -> None:
    document |= {"SessionId": "s", "Event": "e", "EventTime": 1}
    document.pop("CallbackCommand", None)
    callback = decode(json.dumps(document).encode())
    msgspec.json.encode(callback)

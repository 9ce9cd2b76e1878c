"""The decoder of Desk's callbacks, and their identity: for gateway and fold alike.

The vendor's page and what it leaves open: docs/callbacks.md. Pure: no I/O, no clock.
"""

import re
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate
from math import inf, isfinite
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

COMMAND: Final = "Desk.SessionEventNotify"
"""The only `CallbackCommand` that is ours."""

SAMPLE_SDK_APP_ID = 1600012345
"""The SDKAppID of the vendor's sample."""

MAX_DEPTH = 64
"""Nesting of a body's lists and objects. JSON parsers allow different depths, all of them more than
this, so that every process decides alike."""

MAX_BRACKETS = 20_000
"""Lists and objects of a body: more would keep the gateway's event loop busy for too long."""

MAX_SESSION_ID = 256
"""Characters of a `SessionId`; Desk's own are UUIDs of 36."""

MAX_EVENT_NAME = 128
"""Characters of an `Event`."""

MAX_NAME = 256
"""Bytes, in UTF-8, of a UserID, agent id, channel or key; a longer one counts as absent."""

MIN_EVENT_TIME = 1_420_070_400_000
"""Milliseconds: the beginning of 2015. An earlier time is one in seconds (decided by us)."""

MAX_EVENT_TIME = 253_402_300_799_999
"""Milliseconds: the end of the year 9999, the last that protobuf's Timestamp can hold."""

MAX_AHEAD = 24 * 60 * 60 * 1000
"""Milliseconds by which an event may be later than its callback was received (decided by us): a
later one would sort a session's end before its beginning."""

_Text = Annotated[str, Meta(max_length=MAX_NAME // 4)] | UnsetType
"""A text that has at most `MAX_NAME` bytes, whatever its characters."""


class Malformed(ValueError):
    """The body is not a callback; the message says why, in one bounded sentence."""


class _NotJson(Malformed):
    """The parser refuses the body."""

    def __init__(self) -> None:
        super().__init__("the body is not JSON")


class Callback(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    gc=False,
    rename="pascal",
    forbid_unknown_fields=True,  # what the vendor has changed is read field by field
):
    """The fields of a body, as far as they have the types that the vendor gives them.

    A field that is absent, null, of another type or longer than `MAX_NAME` is false: `UNSET`, `""`,
    `None`, `False` or 0. Which fields mean anything depends on the event. The canonical JSON of a
    body that has no other fields is that of its `Callback`, because UNSET is not written.

    Attributes:
        event_time: Unix time in milliseconds, Desk's clock.
        message: `MsgBody` as parsed: a list, or None.
        stars: 0 to 5, as the vendor has it; see `satisfaction`.
    """

    session_id: Annotated[str, Meta(min_length=1, max_length=MAX_SESSION_ID)]
    event: Annotated[str, Meta(min_length=1, max_length=MAX_EVENT_NAME)]
    event_time: Annotated[int, Meta(ge=MIN_EVENT_TIME, le=MAX_EVENT_TIME)]
    command: Literal["Desk.SessionEventNotify"] | UnsetType = msgspec.field(
        default=UNSET, name="CallbackCommand"
    )
    channel_type: _Text = UNSET
    client_user_id: _Text = UNSET
    customer_service_id: _Text = UNSET
    agent_id: _Text = UNSET
    forward_from_agent_id: _Text = UNSET
    message_key: _Text = msgspec.field(default=UNSET, name="MsgKey")
    message: list[Any] | UnsetType | None = msgspec.field(default=UNSET, name="MsgBody")
    cloud_custom_data: str | UnsetType = UNSET
    is_contact_user: bool | UnsetType = UNSET
    stars: Annotated[int, Meta(ge=0, le=5)] | UnsetType = msgspec.field(
        default=UNSET, name="SatisfactionSelected"
    )

    @property
    def satisfaction(self) -> int | None:
        """1 to 5, or None."""
        return self.stars or None


class Reading(msgspec.Struct, frozen=True, gc=False):
    """A body as read.

    Attributes:
        identity: 16 bytes; see `identify`.
        callback: its content; None if it has none that can be read.
        problem: why it is malformed; "" if it is not. A callback that was received too early has
            both: a copy that was received later may have been taken.
    """

    identity: bytes
    callback: Callback | None
    problem: str


def read(sdk_app_id: int, body: bytes, received_at: int) -> Reading:
    """Read a body that was received at a time (ms). It is parsed once, for content and identity."""
    callback, content, problem = None, body, ""
    try:
        _check_nesting(body)
        if callback := _strictly(body):
            content = _CANONICAL.encode(callback)
        else:
            try:
                document = _parse(body)
            except _NotJson:
                document = _parse_mended(body)
            else:
                content = _CANONICAL.encode(document)
            callback = _leniently(document)
    except Malformed as fault:
        problem = str(fault)
    if callback and callback.event_time > received_at + MAX_AHEAD:
        problem = "EventTime is more than 24 hours after the callback was received"
    digest = _hash_of(sdk_app_id).copy()
    digest.update(content)
    return Reading(digest.digest(), callback, problem)


@lru_cache(64)
def _hash_of(sdk_app_id: int) -> blake2b:
    """Begin an identity. A copy of it is made faster than a new one."""
    return blake2b(b"%d\n" % sdk_app_id, digest_size=16)


def identify(sdk_app_id: int, body: bytes) -> bytes:
    """Return the identity of a callback: 16 bytes.

    All deliveries of one callback have one identity, whatever the order of keys or the white space.
    A body that is no JSON, or has a lone surrogate, is identified by its bytes.
    """
    return read(sdk_app_id, body, 0).identity


# ---- JSON within limits ----

_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - set(_STEPS))


def _float(literal: str) -> float:
    number = float(literal)
    if not isfinite(number):
        raise ValueError("out of range")
    return number


# msgspec's own reading of a float near the limits is slow.
_JSON = msgspec.json.Decoder(float_hook=_float)
_CALLBACK = msgspec.json.Decoder(Callback, float_hook=_float)
_CANONICAL = msgspec.json.Encoder(order="sorted")


def _check_nesting(body: bytes) -> None:
    """Refuse a body with too many or too deep lists and objects, in linear time."""
    if _openings(body, MAX_DEPTH) <= MAX_DEPTH:
        return
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(unescaped.split(b'"')[::2])
    brackets = outside_strings.translate(None, _NO_BRACKETS)
    if _openings(brackets, MAX_BRACKETS) > MAX_BRACKETS:
        raise Malformed(f"the body has more than {MAX_BRACKETS} lists and objects")
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise Malformed(f"the body is nested deeper than {MAX_DEPTH}")


def _openings(body: bytes, most: int) -> int:
    """Count the brackets that open a list or an object, up to more than `most`."""
    # With few brackets `replace` is faster than `count`.
    without_lists = body.replace(b"[", b"", most + 1)
    return len(body) - len(without_lists.replace(b"{", b"", most + 1))


def _parse(body: bytes) -> Any:
    try:
        return _JSON.decode(body)
    except ValueError:  # covers msgspec.DecodeError and UnicodeDecodeError
        raise _NotJson from None


# ---- Strictly: every field is known and of the vendor's type. Nearly all bodies are so. ----


def _strictly(body: bytes) -> Callback | None:
    try:
        callback = _CALLBACK.decode(body)
    except ValueError:
        return None
    # A printable name has no control characters.
    printable = callback.session_id.isprintable() and callback.event.isprintable()
    return callback if printable else None


# ---- Leniently: field by field. A field that is not needed may be wrong. ----

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MARK = b"\xff"  # stands in no UTF-8, so in no JSON
_HIGH, _LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_LONE_SURROGATE = re.compile(rb"%b(?!%b)|%b(?<!%b%b)" % (_HIGH, _LOW, _LOW, _HIGH, _LOW))
"""The escape of half a surrogate pair that stands alone, in a JSON text without `\\\\`."""


def _parse_mended(body: bytes) -> Any:
    """Parse a body in which texts have lone surrogates: U+FFFD stands for each of them.

    JSON allows their escapes, but they stand for no Unicode text: most often for half an emoji.
    """
    text = body.replace(rb"\\", rb"\u005c")  # every backslash that is left begins an escape
    marked = _LONE_SURROGATE.sub(_MARK, text)
    if _MARK in body or _MARK not in marked:
        raise _NotJson
    document, other = (_parse(marked.replace(_MARK, mend)) for mend in (rb"\ufffd", rb"\ufffc"))
    for field in ("SessionId", "Event"):
        if type(document) is dict and document.get(field) != other.get(field):
            raise Malformed(f"{field} has a lone surrogate")
    return document


def _leniently(document: Any) -> Callback:
    if type(document) is not dict:
        raise Malformed("the body is not a JSON object")
    if document.get("CallbackCommand", COMMAND) != COMMAND:
        raise Malformed("CallbackCommand in the body is not the one in the URL")
    stars = document.get("SatisfactionSelected")
    message = document.get("MsgBody")
    return Callback(
        session_id=_name(document, "SessionId", MAX_SESSION_ID),
        event=_name(document, "Event", MAX_EVENT_NAME),
        event_time=_event_time(document),
        channel_type=_text(document, "ChannelType"),
        client_user_id=_text(document, "ClientUserId"),
        customer_service_id=_text(document, "CustomerServiceId"),
        agent_id=_text(document, "AgentId"),
        forward_from_agent_id=_text(document, "ForwardFromAgentId"),
        message_key=_text(document, "MsgKey"),
        message=message if type(message) is list else None,
        cloud_custom_data=_text(document, "CloudCustomData", longest=inf),
        is_contact_user=document.get("IsContactUser") is True,
        stars=stars if type(stars) is int and 1 <= stars <= 5 else 0,
    )


def _name(document: dict[str, Any], field: str, longest: int) -> str:
    value = document.get(field)
    if type(value) is not str or not value:
        raise Malformed(f"{field} is missing or not a string")
    if len(value) > longest:
        raise Malformed(f"{field} is longer than {longest} characters")
    if _CONTROL.search(value):
        raise Malformed(f"{field} has control characters")
    return value


def _event_time(document: dict[str, Any]) -> int:
    value = document.get("EventTime")
    if type(value) is not int:
        raise Malformed("EventTime is missing or not an integer")
    if not 0 < value <= MAX_EVENT_TIME:
        raise Malformed("EventTime is not a time in milliseconds")
    if value < MIN_EVENT_TIME:
        raise Malformed("EventTime is before 2015: perhaps it is in seconds, not in milliseconds")
    return value


def _text(document: dict[str, Any], field: str, *, longest: float = MAX_NAME) -> str:
    value = document.get(field)
    if type(value) is not str or len(value) > longest:
        return ""
    return value if len(value.encode()) <= longest else ""

"""Decides whether a body is a Desk callback, and which one: for gateway and fold alike.

The vendor's page and what it leaves open: docs/callbacks.md. Pure: no I/O, no clock.
"""

import re
from functools import partial
from hashlib import blake2b
from itertools import accumulate
from math import inf, isfinite
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

COMMAND: Final = "Desk.SessionEventNotify"
"""The only `CallbackCommand` that is ours."""

SAMPLE_SDK_APP_ID = 1600012345
"""The SDKAppID of the vendor's sample."""

IDENTITY_BYTES = 16
"""Bytes of a callback's identity."""

MAX_DEPTH = 64
"""Nesting beyond which a body counts as no JSON. Parsers differ in how deep they can go; this is
well within all of them, so that every process decides alike."""

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
"""Milliseconds by which an event may be later than its callback was received (decided by us): one
such event would otherwise sort a session's end before its beginning."""

_MARK = b"\xff"  # stands in no UTF-8, so in no JSON
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - set(_STEPS))
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HIGH, _LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_LONE_SURROGATE = re.compile(rb"%b(?!%b)|%b(?<!%b%b)" % (_HIGH, _LOW, _LOW, _HIGH, _LOW))
"""The escape of half a surrogate pair that stands alone, in a JSON text without `\\\\`."""


class Malformed(ValueError):
    """The body is not a callback; the message says why, in one bounded sentence."""


class TooEarly(Malformed):
    """The callback was received long before it says that its event happened.

    Attributes:
        callback: what it says. A copy that was received later may have been taken.
    """

    def __init__(self, callback: "Callback") -> None:
        super().__init__("EventTime is more than 24 hours after the callback was received")
        self.callback = callback


class _NotJson(Malformed):
    """The parser refuses the body."""

    def __init__(self) -> None:
        super().__init__("the body is not JSON")


_Command = Literal["Desk.SessionEventNotify"]
# So many characters never have more bytes than MAX_NAME. Longer names are read field by field.
_Text = Annotated[str, Meta(max_length=MAX_NAME // 4)]


class Callback(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="pascal"):
    """The fields of a body, as far as they have the types that the vendor gives them.

    A field that is absent, null, of another type or longer than `MAX_NAME` is empty (`""`, `None`,
    `False`, 0). Which fields mean anything depends on the event.

    Attributes:
        event_time: Unix time in milliseconds, Desk's clock.
        message: `MsgBody` as parsed: a list, or None.
        stars: 0 to 5, as the vendor has it; see `satisfaction`.
    """

    session_id: Annotated[str, Meta(min_length=1, max_length=MAX_SESSION_ID)]
    event: Annotated[str, Meta(min_length=1, max_length=MAX_EVENT_NAME)]
    event_time: Annotated[int, Meta(ge=MIN_EVENT_TIME, le=MAX_EVENT_TIME)]
    command: _Command = msgspec.field(default=COMMAND, name="CallbackCommand")
    channel_type: _Text = ""
    client_user_id: _Text = ""
    customer_service_id: _Text = ""
    agent_id: _Text = ""
    forward_from_agent_id: _Text = ""
    message_key: _Text = msgspec.field(default="", name="MsgKey")
    message: list[Any] | None = msgspec.field(default=None, name="MsgBody")
    cloud_custom_data: str = ""
    is_contact_user: bool = False
    stars: Annotated[int, Meta(ge=0, le=5)] = msgspec.field(default=0, name="SatisfactionSelected")

    @property
    def satisfaction(self) -> int | None:
        """1 to 5, or None."""
        return self.stars or None


def examine(sdk_app_id: int, body: bytes, received_at: int) -> tuple[bytes, str]:
    """Return `identify`'s answer, and why `decode` raises, "" if it does not; parses only once.

    Not the exception: its traceback would keep the body, and all who wait for it, from being freed.
    """
    try:
        _check_nesting(body)
        document = _parse(body)
    except _NotJson:
        identity, read = _digest(sdk_app_id, body), partial(_read_mended, body)
    except Malformed as fault:
        return _digest(sdk_app_id, body), str(fault)
    else:
        canonical = msgspec.json.encode(document, order="sorted")
        identity, read = _digest(sdk_app_id, canonical), partial(_read, document)
    try:
        _in_time(read(), received_at)
    except Malformed as fault:
        return identity, str(fault)
    return identity, ""


def identify(sdk_app_id: int, body: bytes) -> bytes:
    """Return the identity of a callback: 16 bytes.

    Two deliveries of one callback have one identity, whatever the order of keys or the white space.
    A body that is no JSON, or has a lone surrogate, is identified by its bytes.
    """
    return examine(sdk_app_id, body, 0)[0]


def decode(body: bytes, received_at: int) -> Callback:
    """Read a body that was received at a time (ms) as a callback.

    Raises:
        Malformed: it is none; `TooEarly` if only for that.
    """
    _check_nesting(body)
    try:
        callback: Callback = _COMPLETE.decode(body)
    except ValueError:
        callback = _decode_slowly(body)
    else:
        if not _is_printable(callback):
            callback = _decode_slowly(body)
    return _in_time(callback, received_at)


def _decode_slowly(body: bytes) -> Callback:
    try:
        document = _parse(body)
    except _NotJson:
        return _read_mended(body)
    return _read(document)


def _in_time(callback: Callback, received_at: int) -> Callback:
    if callback.event_time > received_at + MAX_AHEAD:
        raise TooEarly(callback)
    return callback


def _read_mended(body: bytes) -> Callback:
    """Read a body in which texts have lone surrogates: U+FFFD stands for each of them.

    JSON allows their escapes, but what they mean is no Unicode text: half an emoji, most often.
    """
    text = body.replace(rb"\\", rb"\u005c")  # what is left of backslashes begins an escape
    marked = _LONE_SURROGATE.sub(_MARK, text)
    if _MARK in body or _MARK not in marked:
        raise _NotJson
    document = _parse(marked.replace(_MARK, rb"\ufffd"))
    if type(document) is dict:
        _check_names(document, marked.replace(_MARK, rb"\ufffc"))
    return _read(document)


def _check_names(document: dict[str, Any], body: bytes) -> None:
    """Refuse names that are others if another character stands for lone surrogates."""
    other = _NAMES.decode(body)
    for field, value in (("SessionId", other.session_id), ("Event", other.event)):
        if document.get(field) != value:
            raise Malformed(f"{field} has a lone surrogate")


class _Complete(Callback, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """A callback of which every field is known: what the parser skips, it does not check."""


class _Names(msgspec.Struct, gc=False, rename="pascal"):
    session_id: Any = None
    event: Any = None


def _float(literal: str) -> float:
    number = float(literal)
    if not isfinite(number):
        raise ValueError("out of range")
    return number


# msgspec's own reading of a float near the limits takes 20 times as long.
_JSON = msgspec.json.Decoder(float_hook=_float)
_NAMES = msgspec.json.Decoder(_Names)
_COMPLETE = msgspec.json.Decoder(_Complete, float_hook=_float)
"""Reads a body of known fields, as nearly all are, in two thirds of the time. One that it refuses
takes about twice as long: it is parsed first, then read, after all."""


def _digest(sdk_app_id: int, content: bytes) -> bytes:
    return blake2b(b"%d\n%b" % (sdk_app_id, content), digest_size=IDENTITY_BYTES).digest()


def _parse(body: bytes) -> Any:
    try:
        return _JSON.decode(body)
    except ValueError:  # covers msgspec.DecodeError and UnicodeDecodeError
        raise _NotJson from None


def _check_nesting(body: bytes) -> None:
    """Refuse a body with too many or too deep lists and objects, in linear time."""
    if _openings(body) <= MAX_DEPTH:
        return
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(unescaped.split(b'"')[::2])
    brackets = outside_strings.translate(None, _NO_BRACKETS)
    if _openings(brackets) > MAX_BRACKETS:
        raise Malformed(f"the body has more than {MAX_BRACKETS} lists and objects")
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise Malformed(f"the body is nested deeper than {MAX_DEPTH}")


def _openings(body: bytes) -> int:
    return body.count(b"[") + body.count(b"{")


def _read(document: Any) -> Callback:
    """Read a document in one go if every field is as the vendor has it; else field by field."""
    try:
        callback = msgspec.convert(document, Callback)
    except msgspec.ValidationError:
        return _read_fields(document)
    return callback if _is_printable(callback) else _read_fields(document)


def _is_printable(callback: Callback) -> bool:
    """Return True if the names cannot have control characters: nearly always."""
    return callback.session_id.isprintable() and callback.event.isprintable()


def _read_fields(document: Any) -> Callback:
    if type(document) is not dict:
        raise Malformed("the body is not a JSON object")
    if document.get("CallbackCommand", COMMAND) != COMMAND:
        raise Malformed("CallbackCommand in the body is not the one in the URL")
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
        message=_list(document, "MsgBody"),
        cloud_custom_data=_text(document, "CloudCustomData", longest=inf),
        is_contact_user=document.get("IsContactUser") is True,
        stars=_stars(document),
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


def _list(document: dict[str, Any], field: str) -> list[Any] | None:
    value = document.get(field)
    return value if type(value) is list else None


def _stars(document: dict[str, Any]) -> int:
    value = document.get("SatisfactionSelected")
    return value if type(value) is int and 1 <= value <= 5 else 0

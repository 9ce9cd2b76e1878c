"""Decides whether a body is a Desk callback, and which one: for gateway and fold alike.

The vendor's page and what it leaves open: docs/callbacks.md. Pure: no I/O, no clock.
"""

import re
from hashlib import blake2b
from itertools import accumulate
from math import inf
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from journal.entry import ID_BYTES

COMMAND: Final = "Desk.SessionEventNotify"
"""The only `CallbackCommand` that is ours."""

MAX_DEPTH = 64
"""Nesting beyond which a body counts as no JSON. Parsers differ in how deep they can go; this is
well within all of them, so that every process decides alike."""

MAX_SESSION_ID = 256
"""Characters of a `SessionId`; Desk's own are UUIDs of 36."""

MAX_EVENT_NAME = 128
"""Characters of an `Event`."""

MAX_NAME = 256
"""Characters of a UserID, agent id, channel or key; a longer one counts as absent."""

MAX_EVENT_TIME = 253_402_300_799_999
"""Milliseconds: the end of the year 9999, the last that protobuf's Timestamp can hold."""

_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - set(_STEPS))
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Malformed(ValueError):
    """The body is not a callback; the message says why, in one bounded sentence."""


_Command = Literal["Desk.SessionEventNotify"]
_Text = Annotated[str, Meta(max_length=MAX_NAME)]


class Callback(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="pascal"):
    """What a body says, field by field, as far as it has the type that the vendor gives it.

    A field that is absent, null, of another type or longer than `MAX_NAME` is empty (`""`, `None`,
    `False`, 0). Which fields mean anything depends on the event.

    Attributes:
        event_time: Unix time in milliseconds, Desk's clock.
        message: `MsgBody` as parsed: a list, or None.
        stars: 0 to 5, as the vendor has it; see `satisfaction`.
    """

    session_id: Annotated[str, Meta(min_length=1, max_length=MAX_SESSION_ID)]
    event: Annotated[str, Meta(min_length=1, max_length=MAX_EVENT_NAME)]
    event_time: Annotated[int, Meta(gt=0, le=MAX_EVENT_TIME)]
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


def examine(sdk_app_id: int, body: bytes) -> tuple[bytes, str]:
    """Return `identify`'s answer, and why `decode` raises, "" if it does not; parses only once.

    Not the exception: its traceback would keep the body, and all who wait for it, from being freed.
    """
    try:
        document = _parse(body)
    except Malformed as fault:
        return _digest(sdk_app_id, body), str(fault)
    identity = _digest(sdk_app_id, msgspec.json.encode(document, order="sorted"))
    try:
        _read(document)
    except Malformed as fault:
        return identity, str(fault)
    return identity, ""


def identify(sdk_app_id: int, body: bytes) -> bytes:
    """Return the identity of a callback: 16 bytes.

    Two deliveries of one callback have one identity, whatever the order of keys or the white space.
    A body that is no JSON is identified by its bytes.
    """
    return examine(sdk_app_id, body)[0]


def decode(body: bytes) -> Callback:
    """Read a body as a callback.

    Raises:
        Malformed: it is none.
    """
    if _depth(body) <= MAX_DEPTH:
        try:
            callback = _COMPLETE.decode(body)
        except ValueError:
            return _read(_parse(body))
        if _is_printable(callback):
            return callback
    return _read(_parse(body))


class _Complete(Callback, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """A callback of which every field is known: what the parser skips, it does not check."""


_COMPLETE = msgspec.json.Decoder(_Complete)
"""Reads a body of known fields, as nearly all are, in two thirds of the time. One that it refuses
takes about twice as long: it is parsed first, then read, after all."""


def _digest(sdk_app_id: int, content: bytes) -> bytes:
    return blake2b(b"%d\n%b" % (sdk_app_id, content), digest_size=ID_BYTES).digest()


def _parse(body: bytes) -> Any:
    if _depth(body) > MAX_DEPTH:
        raise Malformed(f"the body is nested deeper than {MAX_DEPTH}")
    try:
        return msgspec.json.decode(body)
    except ValueError:  # covers msgspec.DecodeError and UnicodeDecodeError
        raise Malformed("the body is not JSON") from None


def _depth(body: bytes) -> int:
    """An upper bound on the nesting of `body`: exact where it matters, in linear time."""
    openings = body.count(b"[") + body.count(b"{")
    if openings <= MAX_DEPTH:
        return openings
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(unescaped.split(b'"')[::2])
    brackets = outside_strings.translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _read(document: Any) -> Callback:
    """Read a document in one go if every field is as the vendor has it; else field by field."""
    try:
        callback = msgspec.convert(document, Callback)
    except msgspec.ValidationError:
        return _read_fields(document)
    return callback if _is_printable(callback) else _read_fields(document)


def _is_printable(callback: Callback) -> bool:
    """Whether it is sure that the names have no control characters; nearly always."""
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
    return value


def _text(document: dict[str, Any], field: str, *, longest: float = MAX_NAME) -> str:
    value = document.get(field)
    return value if type(value) is str and len(value) <= longest else ""


def _list(document: dict[str, Any], field: str) -> list[Any] | None:
    value = document.get(field)
    return value if type(value) is list else None


def _stars(document: dict[str, Any]) -> int:
    value = document.get("SatisfactionSelected")
    return value if type(value) is int and 1 <= value <= 5 else 0

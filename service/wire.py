"""Protobuf's wire format, as far as the feed needs it: a message is the join of its fields.

Making protobuf objects for each callback took a quarter of the follower's time. What is joined
here in the order of the fields' numbers is byte for byte what protobuf writes; a test compares.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Encoder = Callable[[Any], bytes]
"""Writes a value as one field: its tag and itself; nothing if it is the default."""

VARINT, LENGTH_DELIMITED = 0, 2
_UINT64 = 2**64 - 1


@lru_cache(8_192)  # lengths and small numbers, and the revision, which stands in three messages
def varint(number: int) -> bytes:
    """An int64 as protobuf writes it."""
    if 0 <= number < 0x80:
        return bytes((number,))
    number &= _UINT64
    return bytes((number & 0x7F | 0x80,)) + varint(number >> 7)


def tag(number: int, wire_type: int) -> bytes:
    """What precedes a field's value, or its length."""
    return varint(number << 3 | wire_type)


class Encoders:
    """The encoders of a message's fields: attributes, in order of the fields' numbers.

    They take a string, bytes, an integer (also for a bool or an enum), strings (if repeated),
    milliseconds or None (a Timestamp, a Duration), or another message as serialised, one at a time.
    A message is written even if it is empty, and so is a string of a oneof.
    """

    def __init__(self, message: type[Message]) -> None:
        fields = message.DESCRIPTOR.fields_by_number
        for number in sorted(fields):
            field = cast(FieldDescriptor, fields[number])  # or upb's, which has the same members
            setattr(self, field.name, _encoder(field))

    def __getattr__(self, name: str) -> Encoder:
        raise AttributeError(name)


def _encoder(field: FieldDescriptor) -> Encoder:
    if field.message_type is not None:
        times = field.message_type.full_name in _TIMES
        return (_milliseconds if times else _bytes)(field.number)
    if field.type == FieldDescriptor.TYPE_STRING and field.has_presence:
        return _string(field.number)
    if field.has_presence:
        raise TypeError(f"no encoder for {field.full_name}: its default is not the same as nothing")
    return _SCALARS[field.type, field.is_repeated](field.number)


class _Heads(dict[int, bytes]):
    """A tag with a number after it, by number: once made, that of a small number is at hand."""

    def __init__(self, number: int, wire_type: int) -> None:
        super().__init__()
        self._tag = tag(number, wire_type)

    def __missing__(self, value: int) -> bytes:
        head = self._tag + varint(value)
        if 0 <= value < _SHORT:
            self[value] = head
        return head


_SHORT = 8_192
"""Most lengths and values are below; a table has an entry for each of these that has occurred."""


def _integer(number: int) -> Encoder:
    heads = _Heads(number, VARINT)
    heads[0] = b""
    return heads.__getitem__


# Each of these says the same again instead of calling another: a call takes longer than its work.


def _bytes(number: int) -> Encoder:
    heads = _Heads(number, LENGTH_DELIMITED)

    def encode(value: bytes) -> bytes:
        return heads[len(value)] + value

    return encode


def _filled_bytes(number: int) -> Encoder:
    heads = _Heads(number, LENGTH_DELIMITED)

    def encode(value: bytes) -> bytes:
        return heads[len(value)] + value if value else b""

    return encode


def _string(number: int) -> Encoder:
    heads = _Heads(number, LENGTH_DELIMITED)

    def encode(value: str) -> bytes:
        text = value.encode()
        return heads[len(text)] + text

    return encode


def _filled_string(number: int) -> Encoder:
    heads = _Heads(number, LENGTH_DELIMITED)

    def encode(value: str) -> bytes:
        if not value:
            return b""
        text = value.encode()
        return heads[len(text)] + text

    return encode


def _strings(number: int) -> Encoder:
    write = _string(number)

    def encode(values: Iterable[str]) -> bytes:
        return b"".join(map(write, values))

    return encode


_TIMES = {"google.protobuf.Timestamp", "google.protobuf.Duration"}  # they have the same fields
_NANOS = tuple(map(_integer(2), range(0, 1_000_000_000, 1_000_000)))
_seconds = lru_cache(4_096)(_integer(1))  # callbacks of one time name the same few seconds


def _milliseconds(number: int) -> Encoder:
    heads = _Heads(number, LENGTH_DELIMITED)

    def encode(value: int | None) -> bytes:
        if value is None:
            return b""
        time = _seconds(value // 1000) + _NANOS[value % 1000]
        return heads[len(time)] + time

    return encode


_SCALARS: dict[tuple[int, bool], Callable[[int], Encoder]] = {
    (FieldDescriptor.TYPE_STRING, False): _filled_string,
    (FieldDescriptor.TYPE_STRING, True): _strings,
    (FieldDescriptor.TYPE_BYTES, False): _filled_bytes,
    (FieldDescriptor.TYPE_INT32, False): _integer,
    (FieldDescriptor.TYPE_INT64, False): _integer,
    (FieldDescriptor.TYPE_BOOL, False): _integer,
    (FieldDescriptor.TYPE_ENUM, False): _integer,
}
"""How to write a field that is no message, by its type and whether it is repeated."""

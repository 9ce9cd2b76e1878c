"""Messages as JSON documents."""

import base64
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp


def as_json(message: Message) -> dict[str, Any]:
    """Return a message in protobuf's JSON mapping, with differences.

    Names are those of the .proto files. Every scalar and list is there, also when it is empty.
    Messages that are not set are left out. A duration `x` is also there as a number, `x_seconds`.
    64-bit integers are numbers, where `json_format` writes strings: hence the code of our own.
    """
    document: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            document[field.name] = [_value(field, item) for item in value]
        elif not field.has_presence or message.HasField(field.name):
            document[field.name] = _value(field, value)
            if isinstance(value, Duration):
                document[f"{field.name}_seconds"] = value.ToMilliseconds() / 1000
    return document


def _value(field: Any, value: Any) -> Any:
    if isinstance(value, Timestamp | Duration):
        return value.ToJsonString()
    if isinstance(value, Message):
        return as_json(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    return value

"""Answers as JSON for programs, and as text for people.

Text from outside is printed without its control characters: a message must not be able to control
the reader's terminal.
"""

import base64
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import click
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from command.cli.parameters import current_zone


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
        known = _values(field).get(value)
        return known.name if known else value
    return value


def print_json(message: Message) -> None:
    """Print a message as one line of JSON."""
    click.echo(json.dumps(as_json(message), ensure_ascii=False))


def enum_name(message: Message, field: str) -> str:
    """Return the name of an enum field's value, without the enum's prefix; a dash for zero."""
    values = _values(message.DESCRIPTOR.fields_by_name[field])
    number = getattr(message, field)
    if not number:
        return "-"
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    known = values.get(number)
    return known.name.removeprefix(prefix) if known else str(number)


def _values(field: Any) -> Any:
    return field.enum_type.values_by_number


def local_time(time: Timestamp) -> datetime:
    """Return a time in the zone of --time-zone."""
    return time.ToDatetime(current_zone())


def format_time(moment: datetime, *, precision: str = "seconds") -> str:
    """Return a time as `2025-04-07 11:32:06Z`, or with the offset of its zone.

    Args:
        moment: has a time zone.
        precision: `seconds` or `milliseconds`.
    """
    text = moment.isoformat(" ", precision)
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text


def time_text(message: Message, field: str, *, precision: str = "seconds") -> str:
    """Return a time field as text; a dash if it is not set."""
    if not message.HasField(field):
        return "-"
    return format_time(local_time(getattr(message, field)), precision=precision)


def duration_text(message: Message, field: str) -> str:
    """Return a duration field as text; a dash if it is not set."""
    return format_duration(getattr(message, field)) if message.HasField(field) else "-"


def format_duration(duration: Duration) -> str:
    """Return a duration in one or two units: `0.4s`, `17s`, `2m05s`, `1h02m` or `3d04h`."""
    seconds = duration.ToMilliseconds() / 1000
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 1:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 1:
        return f"{minutes}m{rest:02d}s"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02d}h" if days else f"{hours}h{minutes:02d}m"


def format_size(size: int) -> str:
    """Return a number of bytes as text, in a unit of at most four digits."""
    amount, units = float(size), iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while amount >= 1000 and unit != "TB":
        amount, unit = amount / 1000, next(units)
    return f"{amount:.3g} {unit}"


def printable(text: str) -> str:
    """Replace every character that is not printable."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair per line, without the empty ones."""
    pairs = [(name, value) for name, value in fields if value not in ("", "-")]
    longest = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        click.echo(f"{name:<{longest}}  {printable(value)}")


json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON, one object per line. Times are in UTC; a duration such as queue_wait is also "
    "there as a number, queue_wait_seconds.",
)

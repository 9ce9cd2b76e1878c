"""Values as texts."""

from datetime import datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message


def enum_name(message: Message, field: str) -> str:
    """Return the name of an enum field's value, without the enum's prefix; a dash for zero."""
    enum: Any = message.DESCRIPTOR.fields_by_name[field].enum_type
    values = enum.values_by_number
    number = getattr(message, field)
    if not number:
        return "-"
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    known = values.get(number)
    return known.name.removeprefix(prefix) if known else str(number)


def format_time(moment: datetime, *, precision: str = "seconds") -> str:
    """Return a time as `2025-04-07 11:32:06Z`, or with the offset of its zone.

    Args:
        moment: has a time zone.
        precision: `seconds` or `milliseconds`.
    """
    text = moment.isoformat(" ", precision)
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text


def format_duration(duration: Duration) -> str:
    """Return a duration in one or two units: `0.4s`, `17s`, `2m05s`, `1h02m` or `3d04h`."""
    return format_seconds(duration.ToMilliseconds() / 1000)


def format_seconds(seconds: float) -> str:
    """Return seconds as `format_duration` does."""
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
    hidden = {ord(char) for char in set(text) if not char.isprintable()}
    return text.translate(dict.fromkeys(hidden, "\N{REPLACEMENT CHARACTER}"))


def spreadsheet_text(text: str) -> str:
    """Return a text with an apostrophe before it, if a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 callback`, `2 callbacks` or `2,000 entries`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"

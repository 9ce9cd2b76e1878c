"""Answers as JSON for programs, and as text for people.

Text from outside is printed without its control characters: a message must not be able to control
the reader's terminal.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from time import time_ns

import click
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from command.cli.parameters import current_zone
from display.documents import as_json
from display.texts import format_duration, format_time, printable


def print_json(message: Message) -> None:
    """Print a message as one line of JSON."""
    click.echo(json.dumps(as_json(message), ensure_ascii=False))


def local_time(time: Timestamp) -> datetime:
    """Return a time in the zone of --time-zone."""
    return time.ToDatetime(current_zone())


def time_text(message: Message, field: str, *, precision: str = "seconds") -> str:
    """Return a time field as text; a dash if it is not set."""
    if not message.HasField(field):
        return "-"
    return format_time(local_time(getattr(message, field)), precision=precision)


def duration_text(message: Message, field: str) -> str:
    """Return a duration field as text; a dash if it is not set."""
    return format_duration(getattr(message, field)) if message.HasField(field) else "-"


def duration_of(milliseconds: float) -> Duration:
    """Return a duration; 0 for a negative one."""
    duration = Duration()
    duration.FromMilliseconds(max(0, round(milliseconds)))
    return duration


def passed_since(time: Timestamp) -> int:
    """Return the milliseconds since a time, by the clocks of Desk and of this machine."""
    return time_ns() // 1_000_000 - time.ToMilliseconds()


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

"""Printing of answers: JSON for programs, text and tables for people.

Text from outside is printed without its control characters: a message must not be able to control
the reader's terminal.
"""

import base64
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

import click
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

Row = TypeVar("Row")
Item = TypeVar("Item", bound=Message)

PIPED_WIDTH = 250
"""Columns where there is no terminal, so that nothing is cut."""


def as_json(message: Message) -> dict[str, Any]:
    """Return a message in protobuf's JSON mapping, with differences.

    Names are those of the .proto files. Every scalar and list is there, also when it is empty.
    Messages that are not set are left out. 64-bit integers are numbers, where `json_format` writes
    strings: hence the code of our own.
    """
    document: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.is_repeated:
            document[field.name] = [_value(field, item) for item in getattr(message, field.name)]
        elif not field.has_presence or message.HasField(field.name):
            document[field.name] = _value(field, getattr(message, field.name))
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


async def print_up_to(
    limit: int,
    found: AsyncIterator[Item],
    print_rows: Callable[[Sequence[Item]], None],
    *,
    as_json: bool,
) -> None:
    """Print at most `limit` messages, as JSON one by one, or as rows. Say if there are more."""
    shown: list[Item] = []
    more = False
    async for message in found:
        if len(shown) == limit:
            more = True
            break
        shown.append(message)
        if as_json:
            print_json(message)
    if not as_json:
        print_rows(shown)
    if more:
        click.echo(f"desk: there are more than {limit}; see --limit", err=True)


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


def time_text(message: Message, field: str, *, form: str = "%Y-%m-%d %H:%M:%SZ") -> str:
    """Return a time field in UTC; a dash if it is not set. `%L` in `form` is milliseconds."""
    if not message.HasField(field):
        return "-"
    moment: datetime = getattr(message, field).ToDatetime()
    return moment.strftime(form.replace("%L", f"{moment.microsecond // 1000:03d}"))


def duration_text(message: Message, field: str) -> str:
    """Return a duration field as text; a dash if it is not set."""
    return format_duration(getattr(message, field)) if message.HasField(field) else "-"


def format_duration(duration: Duration) -> str:
    """Return a duration in one or two units: `0.4s`, `17s`, `2m05s` or `1h02m`."""
    seconds = duration.ToMilliseconds() / 1000
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 1:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def printable(text: str) -> str:
    """Replace every character that is not printable."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


class Column(NamedTuple, Generic[Row]):
    """A column of a table.

    Attributes:
        title: the heading.
        text: returns the text for a row.
        from_width: lowest terminal width, in characters, at which the column is shown.
        right: aligned to the right.
        elastic: made narrower when there is too little room: wraps, cuts long words.
    """

    title: str
    text: Callable[[Row], str]
    from_width: int = 0
    right: bool = False
    elastic: bool = False


def width() -> int:
    """Return the terminal's width in characters; `PIPED_WIDTH` without a terminal."""
    return console().width


def console() -> Console:
    """Return a console on stdout, with colours and the terminal's width only on a terminal."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=PIPED_WIDTH if piped else None, highlight=False)


def print_table(columns: Sequence[Column[Row]], rows: Iterable[Row]) -> None:
    """Print the rows, with the columns that fit and are not empty."""
    out, rows = console(), list(rows)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    shown: list[list[Text]] = []
    for column in columns:
        cells = [Text(printable(column.text(row))) for row in rows]
        if column.from_width <= out.width and any(cell.plain for cell in cells):
            justify: JustifyMethod = "right" if column.right else "left"
            table.add_column(
                column.title, justify=justify, no_wrap=not column.elastic, overflow="ellipsis"
            )
            shown.append(cells)
    for line in zip(*shown, strict=True):
        table.add_row(*line)
    out.print(table)


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair per line, without the empty ones."""
    pairs = [(name, value) for name, value in fields if value not in ("", "-")]
    longest = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        click.echo(f"{name:<{longest}}  {printable(value)}")


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, one object per line."
)

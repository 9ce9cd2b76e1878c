"""How answers are printed: JSON for programs, text and tables for people.

What comes from outside is shown without its control characters: a message must not be able to
write on the terminal of whoever reads it.
"""

import base64
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
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

PIPED_WIDTH = 250
"""Columns where there is no terminal: nothing is cut then."""


def as_json(message: Message) -> dict[str, Any]:
    """Return the message as protobuf's JSON mapping has it, with these differences.

    Names as in the .proto files; 64-bit integers are numbers; every scalar and list is there, also
    when empty. Messages that are not set are left out.
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
    """Print the message as one line, at once."""
    click.echo(json.dumps(as_json(message), ensure_ascii=False))


def name_of(message: Message, field: str) -> str:
    """The name of an enum field's value, without the enum's prefix; a dash for none."""
    values = _values(message.DESCRIPTOR.fields_by_name[field])
    number = getattr(message, field)
    if not number:
        return "-"
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    known = values.get(number)
    return known.name.removeprefix(prefix) if known else str(number)


def _values(field: Any) -> Any:
    return field.enum_type.values_by_number


def when(message: Message, field: str, *, form: str = "%Y-%m-%d %H:%M:%SZ") -> str:
    """A time in UTC; a dash if it is not set. `%L` in `form` is milliseconds."""
    if not message.HasField(field):
        return "-"
    moment: datetime = getattr(message, field).ToDatetime()
    return moment.strftime(form.replace("%L", f"{moment.microsecond // 1000:03d}"))


def how_long(message: Message, field: str) -> str:
    """A duration such as `0.4s`, `17s`, `2m05s` or `1h02m`; a dash if it is not set."""
    return span(getattr(message, field)) if message.HasField(field) else "-"


def span(duration: Duration) -> str:
    """A duration for people: two figures are enough."""
    seconds = duration.ToMilliseconds() / 1000
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 1:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def harmless(text: str) -> str:
    """The text with everything that does not print replaced."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


class Column(NamedTuple, Generic[Row]):
    """A column of a table.

    Attributes:
        title: its heading.
        text: what it says of a row.
        from_width: columns of terminal from which on it is shown.
        right: aligned to the right.
        elastic: gives way when there is too little room: breaks between words, cuts long ones.
    """

    title: str
    text: Callable[[Row], str]
    from_width: int = 0
    right: bool = False
    elastic: bool = False


def width() -> int:
    """Columns of the terminal; many when there is none."""
    return console().width


def console() -> Console:
    """Where tables go. Colours and the terminal's width only if it is a terminal."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=PIPED_WIDTH if piped else None, highlight=False)


def print_table(columns: Sequence[Column[Row]], rows: Iterable[Row]) -> None:
    """Print the rows under the columns that there is room for and that say anything."""
    out, rows = console(), list(rows)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    shown: list[list[Text]] = []
    for column in columns:
        cells = [Text(harmless(column.text(row))) for row in rows]
        if column.from_width <= out.width and any(cell.plain for cell in cells):
            justify: JustifyMethod = "right" if column.right else "left"
            table.add_column(
                column.title, justify=justify, no_wrap=not column.elastic, overflow="ellipsis"
            )
            shown.append(cells)
    for line in zip(*shown, strict=True):
        table.add_row(*line)
    out.print(table)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values, one pair per line."""
    pairs = [(name, value) for name, value in facts if value not in ("", "-")]
    longest = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        click.echo(f"{name:<{longest}}  {harmless(value)}")


json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object per line, for programs."
)

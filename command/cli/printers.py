"""Printers of rows: a table that fits the terminal, CSV, JSON.

All print rows as they come, so that an answer of any length takes bounded memory.
"""

import csv
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import zip_longest
from shutil import get_terminal_size
from typing import Any, Generic, NamedTuple, TypeVar

import click
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from rich.cells import cell_len, set_cell_size

from command.cli.output import print_json
from display.texts import format_duration, format_time, printable, spreadsheet_text

Row = TypeVar("Row", bound=Message)
Value = str | bool | int | float | datetime | Duration | None
"""The value of a cell; None if it is not set."""

GAP = "  "

NO_VALUE = "-"
"""The text of a cell without a value."""


class Column(NamedTuple, Generic[Row]):
    """A column of a table or of a CSV file.

    Attributes:
        name: the name in --columns and in the header of a CSV file.
        value: returns the value for a row.
        title: the heading of a table, a line per word; empty = the name.
        right: aligned to the right.
        narrowest: the width in characters to which a table may cut it; 0 = it is never cut.
        usual: the width in characters of later rows, which a table cannot know yet.
        composed: repeats other columns, for people; not in a CSV file unless it is asked for.
        common: tells nothing where all rows have the same value.
    """

    name: str
    value: Callable[[Row], Value]
    title: str = ""
    right: bool = False
    narrowest: int = 0
    usual: int = 0
    composed: bool = False
    common: bool = False

    def heading(self) -> list[str]:
        """Return the words of the heading."""
        return (self.title or self.name.replace("_", " ").upper()).split()

    def tells_nothing(self, cells: Sequence[str]) -> bool:
        """Return True if the column says nothing about the first rows, and no others will come."""
        return not self.usual and len(set(cells)) == 1 and (self.common or cells[0] == NO_VALUE)


class Layout(NamedTuple, Generic[Row]):
    """The columns of one kind of rows.

    Attributes:
        columns: all of them.
        shown: names of those that a table has if there is room, the most important first.
    """

    columns: Sequence[Column[Row]]
    shown: Sequence[str]

    def named(self, names: Sequence[str]) -> list[Column[Row]]:
        columns = {column.name: column for column in self.columns}
        return [columns[name] for name in names]


class Printer(Generic[Row]):
    """Prints rows in parts; here, one JSON object per line."""

    def add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            print_json(row)

    def flush(self) -> None:
        """Print what is due after the rows, such as a note."""


class Csv(Printer[Row]):
    """CSV by RFC 4180, with a header. Times are ISO 8601, durations seconds, unset values empty.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """

    def __init__(self, columns: Sequence[Column[Row]]) -> None:
        self._columns = columns
        self._header: list[list[object]] = [[column.name for column in columns]]

    def add(self, rows: Sequence[Row]) -> None:
        lines = [[_csv_value(column.value(row)) for column in self._columns] for row in rows]
        text = io.StringIO()
        csv.writer(text, lineterminator="\r\n").writerows(self._header + lines)
        self._header = []
        click.echo(text.getvalue(), nl=False)

    def flush(self) -> None:
        if self._header:
            self.add([])


def _csv_value(value: Value) -> object:
    if isinstance(value, datetime):
        return format_time(value, precision="milliseconds").replace(" ", "T")
    if isinstance(value, Duration):
        return value.ToMilliseconds() / 1000
    if isinstance(value, bool):
        return str(value).lower()
    return spreadsheet_text(printable(value)) if isinstance(value, str) else value


class Table(Printer[Row]):
    """A table. Its first rows decide which columns fit the terminal."""

    def __init__(
        self,
        columns: Sequence[Column[Row]],
        *,
        choose: bool = True,
        cell: Callable[[Value], str] | None = None,
        style: Callable[[Row], Mapping[str, Any]] = lambda _: {},
    ) -> None:
        """Prepare a table; the first rows come with its header.

        Args:
            columns: the most important first.
            choose: leave out the columns that do not fit.
            cell: formats a value; by default as `cell_text`.
            style: returns the arguments of `click.style` for a row.
        """
        self._columns, self._choose = list(columns), choose
        self._cell, self._style = cell or cell_text, style
        self._room = terminal_width()
        self._naturals = [max(column.usual, *map(cell_len, column.heading())) for column in columns]
        self._widths: list[int] = []
        self._left_out: list[str] = []

    def add(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        lines = self._measured(rows)
        if first := not self._widths:
            lines = self._fitting(lines)
        self._widen()
        if first:
            self._print_header()
        texts = [self._line(line) for line in lines]
        styles = map(self._style, rows)
        click.echo(
            "\n".join(
                click.style(text, **style) if style else text
                for text, style in zip(texts, styles, strict=True)
            )
        )

    def flush(self) -> None:
        """Say which columns were left out."""
        if self._left_out:
            names = ", ".join(self._left_out)
            note = f"desk: {self._room} characters have no room for {names}; see --columns"
            click.echo(note, err=True)
        self._left_out = []

    def _measured(self, rows: Sequence[Row]) -> list[list[str]]:
        """Return the cells; a column is as wide as its widest cell so far."""
        lines = [[self._cell(column.value(row)) for column in self._columns] for row in rows]
        for place, cells in enumerate(zip(*lines, strict=True)):
            self._naturals[place] = max(self._naturals[place], *map(cell_len, cells))
        return lines

    def _fitting(self, lines: Sequence[Sequence[str]]) -> list[list[str]]:
        """Keep the columns for which there is room, each at its least width."""
        chosen: dict[int, int] = {}
        for place in self._by_importance(lines):
            column, natural = self._columns[place], self._naturals[place]
            self._widths = [*chosen.values(), min(natural, column.narrowest or natural)]
            if not chosen or not self._choose or self._free() >= 0:
                chosen[place] = self._widths[-1]
        places = sorted(chosen)
        self._widths = [chosen[place] for place in places]
        self._left_out = [
            column.name for place, column in enumerate(self._columns) if place not in chosen
        ]
        self._columns = [self._columns[place] for place in places]
        self._naturals = [self._naturals[place] for place in places]
        return [[line[place] for place in places] for line in lines]

    def _by_importance(self, lines: Sequence[Sequence[str]]) -> list[int]:
        """Return the places of the columns, those that tell nothing about these rows last."""
        cells = zip(*lines, strict=True)
        nothing = list(map(Column.tells_nothing, self._columns, cells))
        return sorted(range(len(nothing)), key=nothing.__getitem__)

    def _free(self) -> int:
        return self._room - sum(self._widths) - len(GAP) * (len(self._widths) - 1)

    def _widen(self) -> None:
        """Give the columns that need it the room that is left. A column never becomes narrower."""
        for place, natural in enumerate(self._naturals):
            self._widths[place] += max(0, min(self._free(), natural - self._widths[place]))

    def _print_header(self) -> None:
        titles = [reversed(column.heading()) for column in self._columns]
        for words in reversed(list(zip_longest(*titles, fillvalue=""))):
            click.echo(self._line(words))
        click.echo("─" * min(self._room, self._room - self._free()))

    def _line(self, cells: Sequence[str]) -> str:
        padded = [
            _padded(text, width, right=column.right)
            for column, text, width in zip(self._columns, cells, self._widths, strict=True)
        ]
        return GAP.join(padded).rstrip()


def _padded(text: str, width: int, *, right: bool) -> str:
    missing = width - cell_len(text)
    if missing < 0:
        return set_cell_size(text, width - 1) + "…"
    return " " * missing + text if right else text + " " * missing


def cell_text(value: Value) -> str:
    """Return a value as the text of a cell."""
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, Duration):
        return format_duration(value)
    return NO_VALUE if value in (None, "") else printable(str(value))


def terminal_width() -> int:
    """Return the width of stdout in characters; without a terminal, more than any table has."""
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return get_terminal_size().columns
    return sys.maxsize

"""The options that say how rows are printed, and how many."""

import functools
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Generic, NamedTuple

import click

from command.cli.output import json_option
from command.cli.printers import Csv, Layout, Printer, Row, Table

Command = Callable[..., None]

PART = 500
"""Rows of a table that are printed at once."""

MAX_PAGE_SIZE = 1_000
"""Rows that the service returns in one call, at most."""


class Output(NamedTuple, Generic[Row]):
    """The way of printing that was asked for.

    Attributes:
        layout: the columns that there are.
        form: `table`, `json` or `csv`.
        columns: those asked for; empty = by default.
    """

    layout: Layout[Row]
    form: str
    columns: Sequence[str]

    @property
    def is_table(self) -> bool:
        """True if people are to read it."""
        return self.form == "table"

    def printer(self, **table: Any) -> Printer[Row]:
        """Return the printer; `table` are arguments of `Table`."""
        if self.form == "json":
            return Printer()
        if self.form == "csv":
            plain = [column.name for column in self.layout.columns if not column.composed]
            return Csv(self.layout.named(self.columns or plain))
        columns = self.layout.named(self.columns or self.layout.shown)
        return Table(columns, choose=not self.columns, **table)


class _ColumnNames(click.ParamType[Sequence[str]]):
    """Names or headings of columns, separated by commas."""

    name = "names"

    def __init__(self, layout: Layout[Any]) -> None:
        columns = layout.columns
        self._known = {"_".join(column.heading()).lower(): column.name for column in columns}
        self._known |= {column.name: column.name for column in columns}

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Sequence[str]:
        """Return the names as the columns have them."""
        if not isinstance(value, str):
            return list(value)
        names = [re.sub(r"[- ]", "_", name.strip().lower()) for name in value.split(",")]
        for name in names:
            if name not in self._known:
                choice = ", ".join(dict.fromkeys(self._known.values()))
                self.fail(f"{name!r} is not one of {choice}", param, ctx)
        return list(dict.fromkeys(map(self._known.__getitem__, names)))


def row_options(layout: Layout[Any]) -> Callable[[Command], Command]:
    """Add --json, --csv and --columns; the command takes them as `output`."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_output(
            *, as_json: bool, as_csv: bool, columns: Sequence[str], **options: Any
        ) -> None:
            if as_json and (as_csv or columns):
                raise click.UsageError("--json excludes --csv and --columns")
            form = "json" if as_json else "csv" if as_csv else "table"
            command(output=Output(layout, form, columns), **options)

        names = ", ".join(column.name for column in layout.columns)
        chosen = click.option(
            "--columns",
            type=_ColumnNames(layout),
            default=(),
            help="Columns of the table or of --csv, by name or heading, separated by commas: "
            f"{names}. Default: as many as the terminal has room for; with --csv all.",
        )
        return json_option(_csv_option(chosen(with_output)))

    return decorate


_csv_option = click.option(
    "--csv",
    "as_csv",
    is_flag=True,
    help="Print CSV with a header. Times are ISO 8601, in the zone of --time-zone; durations are "
    "seconds. A text that begins with =, +, - or @ has an apostrophe before it, because a "
    "spreadsheet would take it for a formula.",
)


def limit_options(command: Command) -> Command:
    """Add --limit and --all; the command takes them as `limit`, None = no limit."""

    @functools.wraps(command)
    def with_limit(*, limit: int | None, everything: bool, **options: Any) -> None:
        if everything and limit:
            raise click.UsageError("--limit and --all exclude each other")
        command(limit=None if everything else limit or 100, **options)

    everything = click.option("--all", "everything", is_flag=True, help="Rows without a limit.")
    limit = click.option(
        "--limit", type=click.IntRange(1), help="Number of rows, at most. Default: 100."
    )
    return limit(everything(with_limit))


def mask_options(command: Command) -> Command:
    """Add --omit-raw-body and --omit-message; the command takes them as `mask`.

    Only JSON shows the two fields: otherwise neither is asked for.
    """

    @functools.wraps(command)
    def with_mask(
        *, output: Output[Any], omit_raw_body: bool, omit_message: bool, **options: Any
    ) -> None:
        unseen = output.form != "json"
        mask = {"omit_raw_body": omit_raw_body or unseen, "omit_message": omit_message or unseen}
        command(output=output, mask=mask, **options)

    raw_body = click.option("--omit-raw-body", is_flag=True, help="With --json: no raw_body.")
    message = click.option(
        "--omit-message",
        is_flag=True,
        help="With --json: no message. raw_body has its text, too: omit both.",
    )
    return raw_body(message(with_mask))


def page_size(limit: int | None) -> int:
    """Return how many rows a call should ask for: one more tells that there are more."""
    return MAX_PAGE_SIZE if limit is None else min(limit + 1, MAX_PAGE_SIZE)


async def print_found(
    found: AsyncIterator[Row], printer: Printer[Row], limit: int | None, *, nothing: str
) -> None:
    """Print the rows as they come, at most `limit`. Say on stderr if there are more, or none."""
    part: list[Row] = []
    number, more = 0, False
    async for row in found:
        if number == limit:
            more = True
            break
        number += 1
        part.append(row)
        if len(part) == PART:
            printer.add(part)
            part = []
    printer.add(part)
    printer.flush()
    if more:
        click.echo(f"desk: there are more than {limit}; see --limit and --all", err=True)
    elif not number:
        click.echo(f"desk: {nothing}", err=True)

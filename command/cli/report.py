"""`desk report`: figures of a time, by interval and group."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from command.cli.connection import client_command
from command.cli.figures import (
    LEGEND,
    figure_columns,
    figure_text,
    service_columns,
    threshold_options,
    thresholds_of,
    thresholds_text,
)
from command.cli.filters import TIMES
from command.cli.parameters import EnumName, Moment, time_zone_option
from command.cli.printers import Column, Layout
from command.cli.rows import Output, row_options
from command.cli.tables import field_value
from command.values import ServiceLevel
from desk.client import Client
from desk.v1.report_service_pb2 import (
    IntervalLength,
    ReportGroup,
    ReportInterval,
    ReportRow,
)

_HANDLING = {
    "handled": "HANDLED",
    "handle_time": "HANDLE TIME",
    "average_handle_time": "AHT",
    "session_time": "SESSION TIME",
    "busy_time": "BUSY TIME",
    "concurrency": "CONCURRENCY",
}
_OUTCOME = {
    "begun": "BEGUN",
    "over": "OVER",
    "contained": "CONTAINED",
    "containment": "CONTAINMENT",
    "ratings": "RATINGS",
    "satisfied": "SATISFIED",
    "csat": "CSAT",
    "mean_rating": "MEAN RATING",
    "resolvable": "RESOLVABLE",
    "repeat_contacts": "REPEAT CONTACTS",
    "first_contact_resolution": "FCR",
    "resolution_provisional": "PROVISIONAL",
}
_OUTCOME_SHARES = frozenset(("containment", "csat", "first_contact_resolution"))

TOTAL = "TOTAL"
"""The start of the total, for people."""

_KEYS = {"sdk_app_id": "APP", "channel_type": "CHANNEL", "agent_id": "AGENT"}


def _row(interval: ReportInterval) -> ReportRow | None:
    return interval.rows[0] if interval.rows else None


def _part(name: str) -> Any:
    return lambda interval: getattr(_row(interval), name, None)


def _key(name: str) -> Column[ReportInterval]:
    return Column(name, lambda interval: getattr(_row(interval), name, None) or None, _KEYS[name])


REPORT: Layout[ReportInterval] = Layout(
    [
        Column("start_time", lambda each: field_value(each, "start_time") or TOTAL, "FROM"),
        Column("end_time", lambda interval: field_value(interval, "end_time"), "TO"),
        *map(_key, _KEYS),
        *service_columns(_part("service")),
        *figure_columns(_part("handling"), _HANDLING),
        *figure_columns(_part("outcome"), _OUTCOME, _OUTCOME_SHARES),
        Column("revision", lambda interval: interval.revision, right=True),
        Column("changed", lambda interval: interval.changed, common=True),
    ],
    shown=[
        "start_time", "sdk_app_id", "channel_type", "agent_id", "offered", "answered", "abandoned",
        "service_level", "abandonment_rate", "answer_mean", "answer_p90", "sent_back",
        "average_handle_time", "concurrency", "csat", "ratings", "containment", "transfer_rate",
        "first_contact_resolution", "resolution_provisional", "changed",
    ],
)  # fmt: skip
"""Columns of intervals with one row each, or none. That of the total has no times."""


@click.command(epilog=f"{TIMES}\n\n{LEGEND}")
@click.option(
    "--by",
    "interval",
    type=EnumName(IntervalLength.DESCRIPTOR),
    default=0,
    help="Length of the intervals: QUARTER, HOUR or DAY. Default: one interval.",
)
@click.option(
    "--group-by",
    "groups",
    type=EnumName(ReportGroup.DESCRIPTOR),
    multiple=True,
    help="SDK_APP, CHANNEL_TYPE or AGENT; a row for each combination if repeated.",
)
@click.option("--since", type=Moment(), help="Start of the report. Default: 1d.")
@click.option("--until", type=Moment(), help="End of the report. Default: now.")
@click.option("--app", "sdk_app_ids", type=click.IntRange(1), multiple=True, help="SDKAppID.")
@click.option("--channel", "channel_types", multiple=True, help="Channel type, such as SDK.")
@click.option("--agent", "agent_ids", multiple=True, help="Id of an agent.")
@threshold_options
@click.option(
    "--since-revision",
    type=click.IntRange(1),
    help="Revision of an earlier report: CHANGED tells which intervals have changed since.",
)
@time_zone_option
@row_options(REPORT)
@client_command
async def report(
    client: Client,
    *,
    interval: Any,
    groups: Sequence[Any],
    since: datetime | None,
    until: datetime | None,
    service_level: ServiceLevel | None,
    short_abandon: int | None,
    since_revision: int | None,
    output: Output[ReportInterval],
    **filters: Any,
) -> None:
    """Show the figures of a time, by interval, app, channel and agent.

    Late callbacks correct them: a report is that of the sessions as they are at its revision.
    Intervals begin in the time zone of the service; times are shown in --time-zone.

    The last row of a table with several rows is their total, computed from the sessions. --csv and
    --json have none, so that nothing is added up twice: leave out --by and --group-by for it.
    """
    now = datetime.now(UTC)
    found = await client.get_report(
        since or now - timedelta(days=1),
        until or now,
        interval=interval,
        group_by=groups,
        thresholds=thresholds_of(service_level, short_abandon),
        since_revision=since_revision or 0,
        **filters,
    )
    printer = output.printer(cell=figure_text)
    rows = list(_split(found.intervals))
    if output.is_table and len(rows) > 1 and found.total:
        rows.append(_total(found.intervals, found.total))
    printer.add(found.intervals if output.form == "json" else rows)
    printer.flush()
    zone, target = found.time_zone, thresholds_text(found.thresholds)
    click.echo(f"desk: revision {found.revision}; {target}; intervals in {zone}", err=True)
    if output.is_table:
        click.echo("desk: the formulas are in desk report --help", err=True)


def _split(intervals: Sequence[ReportInterval]) -> Iterator[ReportInterval]:
    """Yield an interval for each row; one without rows as it is."""
    for interval in intervals:
        if not interval.rows:
            yield interval
        for row in interval.rows:
            single = ReportInterval(
                start_time=interval.start_time,
                end_time=interval.end_time,
                revision=interval.revision,
                changed=interval.changed,
            )
            single.rows.append(row)
            yield single


def _total(intervals: Sequence[ReportInterval], total: ReportRow) -> ReportInterval:
    """Return the total as an interval without times."""
    return ReportInterval(
        revision=max(interval.revision for interval in intervals),
        changed=any(interval.changed for interval in intervals),
        rows=[total],
    )

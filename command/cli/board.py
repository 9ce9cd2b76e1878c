"""`desk board`: who waits now, and the service of today."""

import asyncio
import sys
from contextlib import aclosing, suppress
from typing import Any

import click

from command.cli.connection import client_command, end_at_sigterm, require_service
from command.cli.figures import (
    LEGEND,
    figure_text,
    service_columns,
    share_text,
    threshold_options,
    thresholds_of,
    thresholds_text,
)
from command.cli.output import duration_of, duration_text, json_option, passed_since, print_json
from command.cli.parameters import time_zone_option
from command.cli.printers import Column, Table, Value
from command.values import ServiceLevel
from desk.client import Client, FoundBoard
from desk.v1.board_service_pb2 import (
    BoardAgent,
    BoardGroup,
    BoardOptions,
    BoardSession,
    GetBoardResponse,
)
from desk.v1.status_pb2 import ResponseHeader
from display.texts import enum_name, format_duration, printable

NARROW = 10


@click.command(epilog=LEGEND)
@click.option("--app", "sdk_app_ids", type=click.IntRange(1), multiple=True, help="SDKAppID.")
@click.option("--channel", "channel_types", multiple=True, help="Channel type, such as SDK.")
@threshold_options
@click.option("--rows", type=click.IntRange(1, 200), default=10, help="Rows of each list.")
@click.option("--once", is_flag=True, help="Print the board once; otherwise until Ctrl-C.")
@time_zone_option
@json_option
@client_command
async def board(
    client: Client,
    *,
    rows: int,
    once: bool,
    as_json: bool,
    service_level: ServiceLevel | None,
    short_abandon: int | None,
    **filters: Any,
) -> None:
    """Show who waits now, the longest waits, agents, and the service of today.

    Follows changes, at most one a second. Late callbacks correct all numbers. TO BREACH is the time
    left until an answer misses the service level. Without --once, JSON is a board a line.
    """
    options = BoardOptions(
        thresholds=thresholds_of(service_level, short_abandon), max_listed=rows, **filters
    )
    if once:
        _print(await client.get_board(options), as_json=as_json)
        return
    await require_service(client)
    with suppress(asyncio.CancelledError):  # Ctrl-C or SIGTERM: the regular end
        end_at_sigterm()
        async with aclosing(client.watch_board(options)) as boards:
            async for found in boards:
                if sys.stdout.isatty() and not as_json:
                    click.clear()
                _print(found, as_json=as_json)


def _print(found: FoundBoard, *, as_json: bool) -> None:
    if as_json:
        header = ResponseHeader(journal_id=found.journal_id, revision=found.revision)
        print_json(GetBoardResponse(header=header, board=found.board))
        return
    for line in _lines(found):
        click.echo(printable(line))
    shown: list[tuple[str, Any, list[Column[Any]]]] = [
        ("By app and channel", found.board.groups, _GROUPS),
        ("Longest waiting", found.board.longest_waiting, _WAITING),
        ("Longest without an answer", found.board.longest_unanswered, _UNANSWERED),
        ("Agents", found.board.agents, _AGENTS),
    ]
    for title, rows, columns in shown:
        if rows:
            click.echo(f"\n{title}")
            Table(columns, cell=figure_text).add(rows)


def _lines(found: FoundBoard) -> list[str]:
    board = found.board
    total, today = board.total, board.total.today
    states = ", ".join(f"{enum_name(each, 'state')} {each.sessions}" for each in total.states)
    judged = ""
    if today.HasField("service_level"):
        met = today.service_level * 100 >= board.thresholds.answer_percent
        judged = ", target met" if met else ", below target"
    left = f"{today.abandoned} - {today.short_abandons} short"
    speed = ", ".join(
        f"{name} {duration_text(today.speed_of_answer, name)}"
        for name in ("mean", "median", "p90", "p99")
    )
    return [
        f"revision {found.revision}; today in {board.time_zone}; "
        f"{thresholds_text(board.thresholds)}",
        f"waiting        {total.waiting}{_longest(total, 'longest_waiting_since')}",
        f"unanswered     {total.unanswered}{_longest(total, 'longest_unanswered_since')}",
        f"today          {today.offered} offered, {today.answered} answered, "
        f"{today.abandoned} abandoned, {today.sent_back} sent back",
        f"service level  {_share(today, 'service_level')} = {today.answered_within} in time / "
        f"({today.answered} + {left}){judged}",
        f"abandonment    {_share(today, 'abandonment_rate')} = ({left}) / "
        f"({today.answered} + {left}); raw {_share(today, 'raw_abandonment_rate')} = "
        f"{today.abandoned} / {today.offered}",
        f"ASA            {speed}",
        f"open           {states or 'nothing'}",
    ]


def _share(message: Any, field: str) -> str:
    return share_text(getattr(message, field)) if message.HasField(field) else "-"


def _longest(message: Any, field: str) -> str:
    if not message.HasField(field):
        return ""
    return f", longest {format_duration(duration_of(passed_since(getattr(message, field))))}"


def _to_breach(session: BoardSession) -> Value:
    if not session.HasField("breaches_at"):
        return None
    left = -passed_since(session.breaches_at)
    return duration_of(left) if left > 0 else "missed"


def _sessions(title: str) -> list[Column[BoardSession]]:
    return [
        Column("session", lambda each: each.session_id, "SESSION"),
        Column("state", lambda each: enum_name(each, "state"), "STATE"),
        Column("since", lambda each: duration_of(passed_since(each.since)), title, right=True),
        Column("user", lambda each: each.client_user_id, "USER", narrowest=NARROW),
        Column("channel", lambda each: each.channel_type, "CHANNEL", narrowest=NARROW),
        Column("app", lambda each: each.sdk_app_id, "APP", right=True),
    ]


_WAITING = [
    *_sessions("WAITS")[:3],
    Column[BoardSession]("to_breach", _to_breach, "TO BREACH", right=True),
    *_sessions("WAITS")[3:],
]
_UNANSWERED = [
    *_sessions("WAITS")[:3],
    Column[BoardSession]("agent", lambda each: each.agent_id, "AGENT", narrowest=NARROW),
    *_sessions("WAITS")[3:],
]
_AGENTS: list[Column[BoardAgent]] = [
    Column("agent", lambda each: each.agent_id, "AGENT", narrowest=NARROW),
    Column("sessions", lambda each: each.sessions, "SESSIONS", right=True),
    Column("unanswered", lambda each: each.unanswered, "UNANSWERED", right=True),
    Column("app", lambda each: each.sdk_app_id, "APP", right=True),
]
_GROUPS: list[Column[BoardGroup]] = [
    Column("app", lambda each: each.sdk_app_id, "APP"),
    Column("channel", lambda each: each.channel_type, "CHANNEL", narrowest=NARROW),
    Column("waiting", lambda each: each.figures.waiting, "WAITING", right=True),
    Column("unanswered", lambda each: each.figures.unanswered, "UNANSWERED", right=True),
    *(
        column
        for column in service_columns(lambda each: each.figures.today)
        if column.name
        in ("offered", "answered", "abandoned", "service_level", "abandonment_rate", "answer_mean")
    ),
]

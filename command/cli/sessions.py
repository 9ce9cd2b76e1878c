"""`desk sessions`: list, get, count, explain or wait for sessions."""

from datetime import datetime
from typing import Any

import click

from command.cli import Group
from command.cli.connection import client_command
from command.cli.filters import STATE, TIMES, app_option, session_filter, session_options
from command.cli.output import json_option, print_json
from command.cli.parameters import Moment, time_zone_option
from command.cli.rows import (
    Output,
    limit_options,
    mask_options,
    page_size,
    print_found,
    row_options,
)
from command.cli.tables import EXPLANATION, SESSIONS, groups, print_explanation, print_session
from desk.client import Client, TimedOut
from desk.v1.event_pb2 import SessionRecord
from desk.v1.session_pb2 import Session, SessionState
from desk.v1.session_service_pb2 import CountGroup, SessionGroup
from display.texts import count_of

ORDERS = [
    f"{field}{way}"
    for field in ("begun_at", "last_event_at", "ended_at", "state_since")
    for way in ("", " asc", " desc")
]

GROUPS = [
    value.name.removeprefix("COUNT_GROUP_").lower()
    for value in CountGroup.DESCRIPTOR.values
    if value.number
]

WAIT_STATE = "State to wait for, such as ENDED; any one if repeated."

_min_revision = click.option(
    "--min-revision",
    type=click.IntRange(1),
    help="Wait until the answer includes this revision, a number.",
)


@click.group(cls=Group)
def sessions() -> None:
    """List, get, count, explain or wait for sessions."""


@sessions.command("list", epilog=TIMES)
@session_options
@click.option(
    "--order-by",
    type=click.Choice(ORDERS),
    metavar="FIELD",
    help="begun_at, last_event_at, ended_at or state_since, with asc or desc. "
    "Default: 'begun_at desc'.",
)
@limit_options
@_min_revision
@time_zone_option
@row_options(SESSIONS)
@client_command
async def list_sessions(
    client: Client,
    *,
    order_by: str | None,
    limit: int | None,
    min_revision: int | None,
    output: Output[Session],
    **options: Any,
) -> None:
    """List the sessions that all options select, newest first.

    A repeated option selects sessions with any of its values. WAITED is the time in the queue, also
    of a stay that is not over. AGE is the time since the session began.
    """
    found = client.list_sessions(
        session_filter(**options),
        order_by=order_by or "",
        page_size=page_size(limit),
        min_revision=min_revision or 0,
    )
    await print_found(found, output.printer(), limit, nothing="no session matches")


@sessions.command("get", epilog=TIMES)
@click.argument("session_id")
@app_option
@click.option(
    "--as-of",
    "as_of_revision",
    type=click.IntRange(1),
    help="Revision: the session as it was then.",
)
@click.option(
    "--as-of-time", type=Moment(), help="The session as it was known at TIME, or at an age."
)
@_min_revision
@time_zone_option
@json_option
@client_command
async def get_session(
    client: Client,
    *,
    session_id: str,
    sdk_app_id: int | None,
    as_of_revision: int | None,
    as_of_time: datetime | None,
    min_revision: int | None,
    as_json: bool,
) -> None:
    """Show one session, now or as it was before."""
    found = await client.get_session(
        session_id,
        sdk_app_id=sdk_app_id or 0,
        as_of_revision=as_of_revision or 0,
        as_of_time=as_of_time,
        min_revision=min_revision or 0,
    )
    _print_session(found.session, as_json=as_json)


@sessions.command("wait")
@click.argument("session_id")
@click.option("--state", "states", type=STATE, multiple=True, required=True, help=WAIT_STATE)
@app_option
@time_zone_option
@json_option
@client_command
async def wait_for_state(
    client: Client, *, session_id: str, states: Any, sdk_app_id: int | None, as_json: bool
) -> None:
    """Wait, at most --timeout, until a session is in one of the states; then show it."""
    try:
        session = await client.wait_for_state(session_id, states, sdk_app_id=sdk_app_id or 0)
    except TimedOut as error:
        if error.reason != "STATE_NOT_REACHED":
            raise
        names = " or ".join(map(_state_name, states))
        detail = f"session {session_id!r} was not {names} in time"
        raise TimedOut(detail, code=error.code, reason=error.reason) from None
    _print_session(session, as_json=as_json)


@sessions.command("count", epilog=TIMES)
@session_options
@click.option("--by", type=click.Choice(GROUPS), help="A group for each value; default: one group.")
@time_zone_option
@row_options(groups(""))
@client_command
async def count_sessions(
    client: Client, *, by: str | None, output: Output[SessionGroup], **options: Any
) -> None:
    """Count the sessions that all options select, with their waiting and handling times.

    WAIT is the time in the queue, REPLY the time from the request for an agent to the first message
    of an agent, HANDLED the time with agents. A mean or maximum is over the sessions that have it.
    """
    group = CountGroup.Value(f"COUNT_GROUP_{(by or 'unspecified').upper()}")
    counts = await client.count_sessions(session_filter(**options), group_by=group)
    printer = output._replace(layout=groups(by or "")).printer()
    printer.add(counts.groups)
    printer.flush()
    if counts.other_sessions:
        others = count_of(counts.other_sessions, "session")
        click.echo(f"desk: and {others} in smaller groups", err=True)


@sessions.command("explain")
@click.argument("session_id")
@app_option
@time_zone_option
@row_options(EXPLANATION)
@mask_options
@client_command
async def explain_session(
    client: Client,
    *,
    session_id: str,
    sdk_app_id: int | None,
    output: Output[SessionRecord],
    mask: dict[str, bool],
) -> None:
    """Show every callback of a session in time order: verdict, reason, states, delay.

    LATE is the time by which a callback is older than the newest one that came before it. A
    SessionBegin stands before a callback that is up to 5 s older.
    """
    explanation = await client.explain_session(session_id, sdk_app_id=sdk_app_id or 0, **mask)
    if output.is_table:
        print_explanation(explanation, [record async for record in explanation.records], output)
    else:
        await print_found(explanation.records, output.printer(), None, nothing="no callback")


def _state_name(state: SessionState.ValueType) -> str:
    return SessionState.Name(state).removeprefix("SESSION_STATE_")


def _print_session(session: Session, *, as_json: bool) -> None:
    if as_json:
        print_json(session)
    else:
        print_session(session)

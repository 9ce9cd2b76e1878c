"""`desk sessions`: list, get, count, explain or wait for sessions."""

from typing import Any

import click
from desk.client import Client
from desk.v1.session_pb2 import Session
from desk.v1.session_service_pb2 import CountGroup

from command.cli.connection import client_command
from command.cli.filters import STATE, session_filter, session_options
from command.cli.output import json_option, print_json, print_up_to
from command.cli.tables import print_explanation, print_groups, print_session, print_sessions

ORDERS = [
    f"{field}{way}"
    for field in ("begun_at", "last_event_at", "ended_at")
    for way in ("", " asc", " desc")
]

GROUPS = [
    value.name.removeprefix("COUNT_GROUP_").lower()
    for value in CountGroup.DESCRIPTOR.values
    if value.number
]

MAX_PAGE_SIZE = 1_000

WAIT_STATE = "State to wait for, such as ENDED; any one if repeated."

_app = click.option(
    "--app",
    "sdk_app_id",
    type=click.IntRange(1),
    help="SDKAppID, a number; needed if the service has several.",
)
_min_revision = click.option(
    "--min-revision",
    type=click.IntRange(1),
    help="Wait until the answer includes this revision, a number.",
)


@click.group()
def sessions() -> None:
    """List, get, count, explain or wait for sessions."""


@sessions.command("list")
@session_options
@click.option(
    "--order-by",
    type=click.Choice(ORDERS),
    metavar="FIELD",
    help="begun_at, last_event_at or ended_at, with asc or desc. Default: 'begun_at desc'.",
)
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="Sessions at most."
)
@_min_revision
@json_option
@client_command
async def list_sessions(
    client: Client,
    *,
    order_by: str | None,
    limit: int,
    min_revision: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """List the sessions that all options select, newest first.

    A repeated option selects sessions with any of its values.
    """
    found = client.list_sessions(
        session_filter(**options),
        order_by=order_by or "",
        page_size=min(limit + 1, MAX_PAGE_SIZE),
        min_revision=min_revision or 0,
    )
    await print_up_to(limit, found, print_sessions, as_json=as_json)


@sessions.command("get")
@click.argument("session_id")
@_app
@click.option(
    "--as-of",
    "as_of_revision",
    type=click.IntRange(1),
    help="Revision: the session as it was then.",
)
@_min_revision
@json_option
@client_command
async def get_session(
    client: Client,
    *,
    session_id: str,
    sdk_app_id: int | None,
    as_of_revision: int | None,
    min_revision: int | None,
    as_json: bool,
) -> None:
    """Show one session, now or as it was at a revision."""
    found = await client.get_session(
        session_id,
        sdk_app_id=sdk_app_id or 0,
        as_of_revision=as_of_revision or 0,
        min_revision=min_revision or 0,
    )
    _print_session(found.session, as_json=as_json)


@sessions.command("wait")
@click.argument("session_id")
@click.option("--state", "states", type=STATE, multiple=True, required=True, help=WAIT_STATE)
@_app
@json_option
@client_command
async def wait_for_state(
    client: Client, *, session_id: str, states: Any, sdk_app_id: int | None, as_json: bool
) -> None:
    """Wait, at most --timeout, until a session is in one of the states; then show it."""
    session = await client.wait_for_state(session_id, states, sdk_app_id=sdk_app_id or 0)
    _print_session(session, as_json=as_json)


@sessions.command("count")
@session_options
@click.option("--by", type=click.Choice(GROUPS), help="A group for each value; default: one group.")
@json_option
@client_command
async def count_sessions(client: Client, *, by: str | None, as_json: bool, **options: Any) -> None:
    """Count the sessions that all options select, with their waiting and handling times."""
    group = CountGroup.Value(f"COUNT_GROUP_{(by or 'unspecified').upper()}")
    counts = await client.count_sessions(session_filter(**options), group_by=group)
    if as_json:
        for row in counts.groups:
            print_json(row)
    else:
        print_groups(counts, by or "")


@sessions.command("explain")
@click.argument("session_id")
@_app
@json_option
@client_command
async def explain_session(
    client: Client, *, session_id: str, sdk_app_id: int | None, as_json: bool
) -> None:
    """Show every callback of a session in time order: verdict, reason, states, delay.

    With --json: one record per line.
    """
    explanation = await client.explain_session(session_id, sdk_app_id=sdk_app_id or 0)
    if as_json:
        async for record in explanation.records:
            print_json(record)
    else:
        print_explanation(explanation, [record async for record in explanation.records])


def _print_session(session: Session, *, as_json: bool) -> None:
    if as_json:
        print_json(session)
    else:
        print_session(session)

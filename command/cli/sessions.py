"""`desk sessions`: questions about sessions."""

from typing import Any

import click
from desk.client import Client
from desk.v1.session_pb2 import Session
from desk.v1.session_service_pb2 import (
    CountGroup,
    CountSessionsRequest,
    CountSessionsResponse,
    ExplainSessionRequest,
    ExplainSessionResponse,
    GetSessionRequest,
    GetSessionResponse,
    WaitForStateRequest,
    WaitForStateResponse,
)

from command.cli.connection import asks
from command.cli.filters import STATE, session_filter, session_options
from command.cli.output import json_option, print_json
from command.cli.tables import print_groups, print_session, print_sessions, print_story

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

LONGEST_PAGE = 1_000

_app = click.option(
    "--app", "sdk_app_id", type=click.IntRange(1), help="SDKAppID; needed if there are several."
)
_min_revision = click.option(
    "--min-revision", type=click.IntRange(1), help="Wait until the answer knows this revision."
)


@click.group()
def sessions() -> None:
    """List, get, count, explain or await sessions."""


@sessions.command("list")
@session_options
@click.option(
    "--order-by",
    type=click.Choice(ORDERS),
    metavar="FIELD",
    help="begun_at, last_event_at or ended_at, with asc or desc. Default: 'begun_at desc'.",
)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@_min_revision
@json_option
@asks
async def list_sessions(
    client: Client,
    *,
    order_by: str | None,
    limit: int,
    min_revision: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """List the sessions that all options select, newest first.

    An option that is given several times selects sessions with any of the values.
    """
    found = client.list_sessions(
        session_filter(**given),
        order_by=order_by or "",
        page_size=min(limit + 1, LONGEST_PAGE),
        min_revision=min_revision or 0,
    )
    shown: list[Session] = []
    more = False
    async for session in found:
        if len(shown) == limit:
            more = True
            break
        shown.append(session)
        if as_json:
            print_json(session)
    if not as_json:
        print_sessions(shown)
    if more:
        click.echo(f"desk: there are more than {limit}; see --limit", err=True)


@sessions.command("get")
@click.argument("session_id")
@_app
@click.option("--as-of", "as_of_revision", type=click.IntRange(1), help="As it was then.")
@_min_revision
@json_option
@asks
async def get_session(client: Client, *, as_json: bool, **given: Any) -> None:
    """Show one session, now or as it was at a revision."""
    request = GetSessionRequest(**given)
    answer: GetSessionResponse = await client.call(client.session_service.GetSession, request)
    print_json(answer.session) if as_json else print_session(answer.session)


@sessions.command("wait")
@click.argument("session_id")
@click.option("--state", "states", type=STATE, multiple=True, required=True)
@_app
@json_option
@asks
async def wait_for_state(client: Client, *, as_json: bool, **given: Any) -> None:
    """Wait, at most --timeout, until a session is in one of the states; then show it."""
    request = WaitForStateRequest(**given)
    answer: WaitForStateResponse = await client.call(client.session_service.WaitForState, request)
    print_json(answer.session) if as_json else print_session(answer.session)


@sessions.command("count")
@session_options
@click.option(
    "--by",
    type=click.Choice(GROUPS),
    help="Count by this; otherwise all in one.",
)
@json_option
@asks
async def count_sessions(client: Client, *, by: str | None, as_json: bool, **given: Any) -> None:
    """Count the sessions that all options select, with the figures that matter."""
    group = CountGroup.Value(f"COUNT_GROUP_{(by or 'unspecified').upper()}")
    request = CountSessionsRequest(filter=session_filter(**given), group_by=group)
    answer: CountSessionsResponse = await client.call(client.session_service.CountSessions, request)
    if as_json:
        for row in answer.groups:
            print_json(row)
    else:
        print_groups(answer, by or "")


@sessions.command("explain")
@click.argument("session_id")
@_app
@json_option
@asks
async def explain_session(client: Client, *, as_json: bool, **given: Any) -> None:
    """Show every callback of a session in its time order: verdict, why, states, how late.

    With --json: one record per line.
    """
    story = await _story(client, ExplainSessionRequest(**given))
    if as_json:
        for record in story.records:
            print_json(record)
    else:
        print_story(story)


async def _story(client: Client, request: ExplainSessionRequest) -> ExplainSessionResponse:
    """All pages in one."""
    explain = client.session_service.ExplainSession
    story: ExplainSessionResponse = await client.call(explain, request)
    while story.next_page_token:
        request.page_token = story.next_page_token
        page: ExplainSessionResponse = await client.call(explain, request)
        story.records.extend(page.records)
        story.next_page_token = page.next_page_token
    return story

"""`desk rejections`: what was rejected and why."""

from collections.abc import AsyncIterator
from typing import Any

import click
from desk.client import Client
from desk.v1.event_pb2 import SessionRecord
from desk.v1.event_service_pb2 import ListRejectionsRequest, ListRejectionsResponse

from command.cli.connection import asks
from command.cli.filters import REJECTION_REASON, event_filter, event_options
from command.cli.output import json_option, print_json
from command.cli.tables import print_rejections

LONGEST_PAGE = 1_000


@click.command()
@event_options
@click.option(
    "--reason", "reasons", type=REJECTION_REASON, multiple=True, help="Such as MALFORMED."
)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@json_option
@asks
async def rejections(
    client: Client, *, reasons: Any, limit: int, as_json: bool, **given: Any
) -> None:
    """List the callbacks that stand rejected now, newest first, and why."""
    request = ListRejectionsRequest(
        filter=event_filter(**given), reasons=reasons, page_size=min(limit + 1, LONGEST_PAGE)
    )
    shown: list[SessionRecord] = []
    more = False
    async for record in _rejections(client, request):
        if len(shown) == limit:
            more = True
            break
        shown.append(record)
        if as_json:
            print_json(record)
    if not as_json:
        print_rejections(shown)
    if more:
        click.echo(f"desk: there are more than {limit}; see --limit", err=True)


async def _rejections(
    client: Client, request: ListRejectionsRequest
) -> AsyncIterator[SessionRecord]:
    while True:
        page: ListRejectionsResponse = await client.call(
            client.event_service.ListRejections, request
        )
        for record in page.records:
            yield record
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token

"""`desk rejections`: the rejected callbacks and their reasons."""

from typing import Any

import click
from desk.client import Client

from command.cli.connection import client_command
from command.cli.filters import REJECTION_REASON, event_filter, event_options
from command.cli.output import json_option, print_up_to
from command.cli.tables import print_rejections

MAX_PAGE_SIZE = 1_000


@click.command()
@event_options
@click.option(
    "--reason", "reasons", type=REJECTION_REASON, multiple=True, help="Reason, such as MALFORMED."
)
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="Callbacks at most."
)
@json_option
@client_command
async def rejections(
    client: Client, *, reasons: Any, limit: int, as_json: bool, **options: Any
) -> None:
    """List the callbacks that are rejected now, newest first, with their reasons.

    A repeated option selects callbacks with any of its values.
    """
    found = client.list_rejections(
        event_filter(**options), reasons=reasons, page_size=min(limit + 1, MAX_PAGE_SIZE)
    )
    await print_up_to(limit, found, print_rejections, as_json=as_json)

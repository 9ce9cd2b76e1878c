"""`desk rejections`: the rejected callbacks and their reasons."""

from typing import Any

import click

from command.cli.connection import client_command
from command.cli.filters import REJECTION_REASON, event_filter, event_options
from command.cli.parameters import time_zone_option
from command.cli.rows import (
    Output,
    limit_options,
    mask_options,
    page_size,
    print_found,
    row_options,
)
from command.cli.tables import REJECTIONS
from desk.client import Client
from desk.v1.event_pb2 import SessionRecord


@click.command()
@event_options
@click.option(
    "--reason", "reasons", type=REJECTION_REASON, multiple=True, help="Reason, such as MALFORMED."
)
@limit_options
@time_zone_option
@row_options(REJECTIONS)
@mask_options
@client_command
async def rejections(
    client: Client,
    *,
    reasons: Any,
    limit: int | None,
    mask: dict[str, bool],
    output: Output[SessionRecord],
    **options: Any,
) -> None:
    """List the callbacks that are rejected now, newest first, with their reasons.

    A repeated option selects callbacks with any of its values.
    """
    found = client.list_rejections(
        event_filter(**options), reasons=reasons, page_size=page_size(limit), **mask
    )
    await print_found(found, output.printer(), limit, nothing="no callback is rejected")

"""Looks at the service again and again, for what it keeps no history of."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

from console.depth import SAMPLE_EVERY
from console.site import Site
from desk.client import ClientError
from desk.v1.board_service_pb2 import BoardOptions


async def sample(site: Site) -> None:
    """Note the queue's depth and the gateways' counts until cancelled."""
    while True:
        with suppress(ClientError):  # the next look may do better; the page says why by itself
            answer = await site.client.get_board(BoardOptions(max_listed=1))
            site.depth.note(datetime.now(UTC), answer.board)
        for target, replica in site.replicas.items():
            with suppress(ClientError):
                site.rates.note(target, (await replica.status()).gateway, datetime.now(UTC))
        await asyncio.sleep(SAMPLE_EVERY)

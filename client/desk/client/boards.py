"""The live board as one endless stream, that goes on after a break."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from grpc.aio import UnaryStreamCall

from desk.client.answers import FoundBoard
from desk.client.subscription import reconnecting
from desk.v1.board_service_pb2 import WatchBoardRequest, WatchBoardResponse

Open = Callable[[WatchBoardRequest], UnaryStreamCall[WatchBoardRequest, WatchBoardResponse]]


async def follow_board(
    request: WatchBoardRequest, open_stream: Open, **options: Any
) -> AsyncGenerator[FoundBoard, None]:
    """Yield the boards of a stream; `options` are those of `reconnecting`."""
    responses = reconnecting(lambda: open_stream(request), **options)
    async with aclosing(responses):
        async for response, _ in responses:
            yield FoundBoard(
                board=response.board,
                revision=response.header.revision,
                journal_id=response.header.journal_id,
            )

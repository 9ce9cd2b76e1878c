"""Streams that are opened again after a break or a silence, with growing pauses.

Knows no method of the API.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import Message
from grpc.aio import UnaryStreamCall

from desk.client.errors import ClientError, Retryable, TimedOut, Unavailable, own_errors

log = logging.getLogger(__name__)

SILENCE = 30.0
"""Seconds without any message after which a stream counts as dead. The service promises a message
every 5 s, or every 20 s while it has thousands of streams."""

RECONNECT_DELAY, LONGEST_DELAY = 0.2, 10.0
"""Seconds between two attempts to connect, at most; the first doubles up to the last."""

Response = TypeVar("Response")


async def reconnecting(
    open_stream: Callable[[], UnaryStreamCall[Any, Response]],
    *,
    is_temporary: Callable[[ClientError], bool],
    silence: float,
    reconnect_delay: float,
    give_up_after: float | None,
) -> AsyncGenerator[tuple[Response, bool], None]:
    """Yield the messages of a stream that is opened again whenever it breaks.

    Each comes with True if it is the first one after a break.

    Args:
        open_stream: calls the method.
        is_temporary: returns True for an error that may pass, although it is not `Retryable`.
        silence: seconds without a message after which the stream counts as broken.
        reconnect_delay: seconds before the first new attempt, at most.
        give_up_after: seconds without a message after which the error is raised; None: never.
    """
    clock = asyncio.get_running_loop().time
    attempt, last_message_at, resumed = 0, clock(), False
    while True:
        with own_errors():
            call = open_stream()
        try:
            while True:
                response = await read(call, silence)
                yield response, resumed
                attempt, resumed = 0, False
                last_message_at = clock()
        except ClientError as error:
            if not isinstance(error, Retryable) and not is_temporary(error):
                raise
            delay = _delay(reconnect_delay, attempt)
            if give_up_after is not None and clock() + delay - last_message_at > give_up_after:
                raise
            _report(error, delay)
        finally:
            # An abandoned call would keep its stream, and its place among the service's streams.
            call.cancel()
        attempt, resumed = attempt + 1, True
        await asyncio.sleep(delay)


async def read(call: UnaryStreamCall[Any, Response], silence: float) -> Response:
    """Read the next message of a stream.

    Raises:
        TimedOut: none came for `silence` seconds.
        Unavailable: the stream has ended.
    """
    try:
        with own_errors():
            async with asyncio.timeout(silence):
                response = await call.read()
    except TimeoutError:
        raise TimedOut(
            f"nothing came for {silence:g} s", code=grpc.StatusCode.DEADLINE_EXCEEDED
        ) from None
    if isinstance(response, Message):
        return cast(Response, response)
    raise Unavailable("the stream ended", code=grpc.StatusCode.UNAVAILABLE)


def _delay(first: float, attempt: int) -> float:
    longest = min(LONGEST_DELAY, first * 2.0 ** min(attempt, 16))
    return longest * random.uniform(0.5, 1)  # noqa: S311 (spreads load, hides nothing)


def _report(error: ClientError, delay: float) -> None:
    log.warning(
        "connection lost (%s), trying again in %d ms",
        ", ".join(filter(None, (error.code.name, error.reason))),
        round(delay * 1000),
    )

"""The feed as one endless stream: its position, and how it goes on after a break.

Knows the contract in event_service.proto, and nothing of channels.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import Message
from grpc.aio import UnaryStreamCall

from desk.client.errors import (
    ClientError,
    JournalMismatch,
    OutOfRange,
    Retryable,
    TimedOut,
    Unavailable,
    own_errors,
)
from desk.v1.event_pb2 import Forgotten, SessionRecord
from desk.v1.event_service_pb2 import SubscribeRequest, SubscribeResponse
from desk.v1.session_pb2 import Session

log = logging.getLogger(__name__)

SILENCE = 30.0
"""Seconds without any message after which a stream counts as dead. The service promises a message
every 5 s, or every 20 s while it has thousands of streams."""

RECONNECT_DELAY, LONGEST_DELAY = 0.2, 10.0
"""Seconds between two attempts to connect, at most; the first doubles up to the last."""

Response = TypeVar("Response")

Open = Callable[[SubscribeRequest], UnaryStreamCall[SubscribeRequest, SubscribeResponse]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """One message of the feed. Without records or sessions it marks progress only.

    Attributes:
        journal_id: the journal that `revision` counts in.
        revision: the position to resume from. Store it with `journal_id` *after* you have handled
            this update, best in the same transaction, and pass both to `Client.subscribe` after
            a restart. With `sessions_first`, store nothing before `sessions_complete`.
        records: ascending by (revision, ordinal); none was shown before.
        sessions: part of the current sessions, with `sessions_first`.
        sessions_complete: true in the last part of them.
        forgotten: sessions that were removed for good; delete your copies. None in most updates.
        caught_up: the stream has reached the present; what follows is live.
        fell_behind: this client reads more slowly than events come; `caught_up` will follow.
        resumed: the first update after the connection was lost. If `sessions_first` was not
            complete, the sessions come again from the start: drop those received before.
        dropped: how many records the service repeated; they are not in `records`.
    """

    journal_id: str
    revision: int
    records: Sequence[SessionRecord] = ()
    sessions: Sequence[Session] = ()
    sessions_complete: bool = False
    forgotten: Forgotten | None = None
    caught_up: bool = False
    fell_behind: bool = False
    resumed: bool = False
    dropped: int = 0


class Position:
    """The place of a subscription in the feed: the next request, and the last record shown."""

    def __init__(self, request: SubscribeRequest) -> None:
        self._request = SubscribeRequest()
        self._request.CopyFrom(request)
        self._last_shown = (0, 0)

    def request(self) -> SubscribeRequest:
        """Return the request that goes on from here."""
        return self._request

    def take(self, response: SubscribeResponse, *, resumed: bool) -> Update:
        """Move on by one message."""
        fresh = self._fresh(response.records.records)
        self._move(response)
        return Update(
            journal_id=response.header.journal_id,
            revision=response.header.revision,
            records=fresh,
            sessions=response.sessions.sessions,
            sessions_complete=response.sessions.complete,
            forgotten=response.forgotten if response.HasField("forgotten") else None,
            caught_up=response.HasField("caught_up"),
            fell_behind=response.HasField("fell_behind"),
            resumed=resumed,
            dropped=len(response.records.records) - len(fresh),
        )

    def is_ahead(self, error: OutOfRange) -> bool:
        """Return True if this service lags behind the one that the position comes from.

        Newer services say REVISION_NOT_REACHED, which is `Retryable`.
        """
        return error.reason == "REVISION_IN_FUTURE" and bool(self._request.journal_id)

    def _fresh(self, records: Sequence[SessionRecord]) -> Sequence[SessionRecord]:
        if records and _place(records[0]) <= self._last_shown:
            records = [record for record in records if _place(record) > self._last_shown]
        if records:  # ascending: all records after a fresh one are fresh
            self._last_shown = _place(records[-1])
        return records

    def _move(self, response: SubscribeResponse) -> None:
        expected, received = self._request.journal_id, response.header.journal_id
        if expected and received != expected:
            raise JournalMismatch(f"the stream changed from journal {expected} to {received}")
        self._request.journal_id = received
        if self._request.sessions_first and not response.sessions.complete:
            return  # there is nothing to resume from before all sessions are here
        self._request.sessions_first = False
        self._request.after_revision = response.header.revision
        # An open stream goes on where something was forgotten. So does one that broke.
        self._request.skip_forgotten = True


def _place(record: SessionRecord) -> tuple[int, int]:
    return record.revision, record.ordinal


async def follow(
    request: SubscribeRequest,
    open_stream: Open,
    *,
    silence: float,
    reconnect_delay: float,
    give_up_after: float | None,
) -> AsyncGenerator[Update, None]:
    """Yield the feed's updates, connecting again whenever the stream breaks.

    A service that lags behind the one before it (REVISION_IN_FUTURE) is asked again.

    Raises:
        Failed: the service refuses the request for good, or has another journal.
        Retryable: nothing came for `give_up_after` seconds.
    """
    position = Position(request)
    responses = reconnecting(
        lambda: open_stream(position.request()),
        is_temporary=lambda error: isinstance(error, OutOfRange) and position.is_ahead(error),
        silence=silence,
        reconnect_delay=reconnect_delay,
        give_up_after=give_up_after,
    )
    async with aclosing(responses):
        async for response, resumed in responses:
            yield position.take(response, resumed=resumed)


async def reconnecting(
    open_stream: Callable[[], UnaryStreamCall[Any, Response]],
    *,
    is_temporary: Callable[[ClientError], bool] = lambda error: False,
    silence: float,
    reconnect_delay: float,
    give_up_after: float | None,
) -> AsyncGenerator[tuple[Response, bool], None]:
    """Yield the messages of a stream that is opened again whenever it breaks.

    Each comes with True if it is the first one after a break.

    Args:
        open_stream: calls the method.
        is_temporary: returns True for an error that will pass although it is not `Retryable`.
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

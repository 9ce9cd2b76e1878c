"""The feed as one endless stream: where it stands, and how it goes on after a break.

Knows the contract in event_service.proto, and nothing of channels.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence

import grpc
import msgspec
import structlog
from grpc.aio import AioRpcError, UnaryStreamCall

from desk.client.errors import (
    ClientError,
    JournalMismatch,
    OutOfRange,
    Retryable,
    TimedOut,
    Unavailable,
    translate,
)
from desk.v1.event_pb2 import SessionRecord
from desk.v1.event_service_pb2 import SubscribeRequest, SubscribeResponse
from desk.v1.session_pb2 import Session

log = structlog.get_logger()

SILENCE = 30.0
"""Seconds without any message after which a stream counts as dead: six times what the service
promises."""

FIRST_DELAY, LONGEST_DELAY = 0.2, 10.0
"""Seconds between two attempts to connect, at most; the first doubles up to the last."""

Open = Callable[[SubscribeRequest], UnaryStreamCall[SubscribeRequest, SubscribeResponse]]


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """What one message of the feed brings. Without records or sessions it marks progress only.

    Attributes:
        journal_id: the journal that `revision` counts in.
        revision: where to go on. Store it with `journal_id` *after* dealing with this update, best
            in the same transaction as its effects, and pass both to `Client.subscribe` after a
            restart. With `sessions_first`, store nothing before `sessions_complete`.
        records: ascending by (revision, ordinal); none was shown before.
        sessions: part of the current sessions, with `sessions_first`.
        sessions_complete: the last part of them.
        caught_up: the present is reached; what follows is live.
        fell_behind: this client reads more slowly than events come; `caught_up` will follow.
        resumed: the first update after the connection was lost. If `sessions_first` was not
            complete, the sessions come again from the start: drop what came before.
        dropped: records that the service repeated and that were not shown again.
    """

    journal_id: str
    revision: int
    records: Sequence[SessionRecord] = ()
    sessions: Sequence[Session] = ()
    sessions_complete: bool = False
    caught_up: bool = False
    fell_behind: bool = False
    resumed: bool = False
    dropped: int = 0


class Position:
    """Where a subscription stands: what to ask for next, and what was shown."""

    def __init__(self, request: SubscribeRequest) -> None:
        self._request = SubscribeRequest()
        self._request.CopyFrom(request)
        self._shown = (0, 0)
        self._moved = False

    def request(self) -> SubscribeRequest:
        """The request that goes on from here."""
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
            caught_up=response.HasField("caught_up"),
            fell_behind=response.HasField("fell_behind"),
            resumed=resumed,
            dropped=len(response.records.records) - len(fresh),
        )

    def is_ahead(self, error: OutOfRange) -> bool:
        """Whether this service lags behind the one that the position comes from."""
        return error.reason == "REVISION_IN_FUTURE" and self._moved

    def _fresh(self, records: Sequence[SessionRecord]) -> Sequence[SessionRecord]:
        if records and _place(records[0]) <= self._shown:
            records = [record for record in records if _place(record) > self._shown]
        if records:  # ascending: what comes after a fresh one is fresh
            self._shown = _place(records[-1])
        return records

    def _move(self, response: SubscribeResponse) -> None:
        known, told = self._request.journal_id, response.header.journal_id
        if known and told != known:
            raise JournalMismatch(f"the stream went over from journal {known} to {told}")
        self._moved = True
        self._request.journal_id = response.header.journal_id
        if self._request.sessions_first and not response.sessions.complete:
            return  # only the whole picture is something to go on from
        self._request.sessions_first = False
        self._request.after_revision = response.header.revision


def _place(record: SessionRecord) -> tuple[int, int]:
    return record.revision, record.ordinal


async def follow(
    request: SubscribeRequest, open_stream: Open, *, silence: float, give_up_after: float | None
) -> AsyncGenerator[Update, None]:
    """Yield the feed's updates, connecting again whenever the stream breaks.

    A service that lags behind the one heard before (REVISION_IN_FUTURE) is asked again.

    Raises:
        Failed: the service refuses the request for good, or the journal is another one.
        Retryable: nothing came for `give_up_after` seconds.
    """
    position = Position(request)
    clock = asyncio.get_running_loop().time
    attempt, heard, resumed = 0, clock(), False
    while True:
        call = open_stream(position.request())
        try:
            while True:
                response = await _read(call, silence)
                update = position.take(response, resumed=resumed)
                attempt, resumed = 0, False
                yield update
                heard = clock()
        except (Retryable, OutOfRange) as error:
            if isinstance(error, OutOfRange) and not position.is_ahead(error):
                raise
            delay = _delay(attempt)
            if give_up_after is not None and clock() + delay - heard > give_up_after:
                raise
            _report(error, position, delay)
        finally:
            # An abandoned call would keep its stream, and its place among the service's streams.
            call.cancel()
        attempt, resumed = attempt + 1, True
        await asyncio.sleep(delay)


async def _read(
    call: UnaryStreamCall[SubscribeRequest, SubscribeResponse], silence: float
) -> SubscribeResponse:
    try:
        async with asyncio.timeout(silence):
            response = await call.read()
    except TimeoutError:
        raise TimedOut(
            f"nothing came for {silence:g} s", code=grpc.StatusCode.DEADLINE_EXCEEDED
        ) from None
    except AioRpcError as error:
        raise translate(error) from None
    if isinstance(response, SubscribeResponse):
        return response
    raise Unavailable("the stream ended", code=grpc.StatusCode.UNAVAILABLE)


def _delay(attempt: int) -> float:
    longest = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempt, 16))
    return longest * random.uniform(0.5, 1)  # noqa: S311 (spreads load, hides nothing)


def _report(error: ClientError, position: Position, delay: float) -> None:
    log.warning(
        "subscription_interrupted",
        code=error.code.name,
        reason=error.reason,
        after_revision=position.request().after_revision,
        retry_in_ms=round(delay * 1000),
    )

"""One way in for every call of every service: a place, the request, the answer, errors mapped.

All methods are handled as if their requests were streams. So a call is counted as soon as it is
opened, and a client that never sends its request is no exception.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from service.rpc.errors import Reason, Refused, map_errors, throttled
from service.rpc.limits import AllPlaces, Places, caller_of

REQUEST_WITHIN = 10.0
"""Seconds that a client has to send its request, once the call is open."""

MAX_REQUEST_BYTES = 16 * 1024
"""Bytes of a request. A call that stays open keeps them, also those that nothing here knows."""

LARGE = frozenset({"BatchGetSessions"})
"""Methods whose requests may be as large as gRPC takes."""

SMALL = frozenset({"GetSession", "WaitForState", "GetStatus", "Check"})
"""Methods whose answers fit into what gRPC sends ahead of the reader. Those of all other methods
are written by the call itself, so that it keeps its place until its client has read."""


class Call:
    """A call as the services see it.

    Attributes:
        caller: the address that it comes from.
        write: sends a message of a stream; returns when the client has room for it.
        abort: ends the call with a status.
        time_remaining: seconds until the deadline; None without one.
    """

    def __init__(self, context: Any, places: Places, waiters: Places) -> None:
        self.caller = caller_of(context.peer())
        self.write: Callable[[Message | bytes], Awaitable[None]] = context.write
        self.abort: Callable[..., Awaitable[None]] = context.abort
        self.time_remaining: Callable[[], float | None] = context.time_remaining
        self._places = places
        self._waiters = waiters

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Take a waiter's place in exchange for the call's own, until the end of the block.

        Raises:
            Refused: TOO_MANY_WAITERS.
        """
        self._waiters.take(self.caller)
        self._places.give_back(self.caller)
        try:
            yield
        finally:
            self._waiters.give_back(self.caller)
            # A call that has waited is answered, whoever has come in the meantime.
            self._places.take_anyway(self.caller)


class Handler:
    """The handler of one method.

    Args:
        method: its descriptor.
        answer: the servicer's method. `await answer(request, call)` returns the answer, or writes
            a stream of them; where requests are a stream, `answer(requests, call)` iterates.
        places: all there are.
    """

    def __init__(self, method: MethodDescriptor, answer: Any, places: AllPlaces) -> None:
        self._method = method
        self._request: Any = GetMessageClass(method.input_type)
        self._answer = answer
        self._places = places

    def registered(self) -> Any:
        """Make what a server registers."""
        mapped = map_errors(self._method.name)
        if self._method.name in SMALL:
            return grpc.stream_unary_rpc_method_handler(mapped(self._small), None, _serialised)
        ask = self._iterate if self._method.client_streaming else self._large
        return grpc.stream_stream_rpc_method_handler(mapped(ask), None, _serialised)

    async def _small(self, _requests: Any, context: Any) -> Any:
        with self._call(context) as call:
            return await self._answer(await self._read(context), call)

    async def _large(self, _requests: Any, context: Any) -> None:
        with self._call(context) as call:
            answer = await self._answer(await self._read(context), call)
            if answer is not None:
                raw = _serialised(answer)
                with self._places.unread_bytes.taken(call.caller, len(raw)):
                    await call.write(raw)

    async def _iterate(self, requests: AsyncIterator[bytes], context: Any) -> None:
        with self._call(context) as call:
            decoded = (self._decoded(raw) async for raw in requests)
            async for answer in self._answer(decoded, call):
                await call.write(answer)

    @contextmanager
    def _call(self, context: Any) -> Iterator[Call]:
        places = self._places.of(self._method)
        call = Call(context, places, self._places.waiters)
        with places.taken(call.caller):
            yield call

    async def _read(self, context: Any) -> Message:
        try:
            async with asyncio.timeout(REQUEST_WITHIN):
                raw = await context.read()
        except TimeoutError:
            raise Refused(
                Reason.INVALID_REQUEST, f"no request came within {REQUEST_WITHIN:g} s"
            ) from None
        if raw is grpc.aio.EOF:
            raise Refused(Reason.INVALID_REQUEST, "the call ended without a request")
        return self._decoded(raw)

    def _decoded(self, raw: bytes) -> Message:
        if len(raw) > MAX_REQUEST_BYTES and self._method.name not in LARGE:
            raise Refused(
                Reason.INVALID_REQUEST,
                f"the request has {len(raw):,} bytes: {MAX_REQUEST_BYTES:,} at most",
            )
        try:
            request: Message = self._request.FromString(raw)
        except DecodeError as error:
            name = self._method.name
            throttled.log("warning", "request_not_decoded", method=name, error=error)
            raise Refused(Reason.INVALID_REQUEST, "the request cannot be decoded") from None
        return request


def _serialised(answer: Message | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()

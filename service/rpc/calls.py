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
        method, mapped = self._method, map_errors(self._method.name)
        if method.server_streaming:
            ask = self._iterate if method.client_streaming else self._stream
            return grpc.stream_stream_rpc_method_handler(mapped(ask), None, _serialised)
        return grpc.stream_unary_rpc_method_handler(mapped(self._unary))

    async def _unary(self, _requests: Any, context: Any) -> bytes:
        call = self._opened(context)
        answer = _serialised(await self._answer(await self._read(context), call))
        _take(self._places.unread_bytes, call.caller, context, len(answer))
        return answer

    async def _stream(self, _requests: Any, context: Any) -> None:
        call = self._opened(context)
        await self._answer(await self._read(context), call)

    async def _iterate(self, requests: AsyncIterator[bytes], context: Any) -> None:
        call = self._opened(context)
        decoded = (self._decoded(raw) async for raw in requests)
        async for answer in self._answer(decoded, call):
            await call.write(answer)

    def _opened(self, context: Any) -> Call:
        places = self._places.of(self._method)
        call = Call(context, places, self._places.waiters)
        _take(places, call.caller, context)
        return call

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


def _take(places: Places, caller: str, context: Any, number: int = 1) -> None:
    """Take places until gRPC is done with a call, which is when its client has read the answer."""
    places.take(caller, number)
    context.add_done_callback(lambda _: places.give_back(caller, number))


def _serialised(answer: Message | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()

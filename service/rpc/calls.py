"""One way in for every call of every service: a place, the request, the answer, errors mapped.

All methods are handled as if their requests were streams. So a call is counted as soon as it is
opened, and a client that never sends its request is no exception.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from service.rpc.errors import Reason, Refused, map_errors, throttled
from service.rpc.limits import Places, caller_of

REQUEST_WITHIN = 10.0
"""Seconds that a client has to send its request, once the call is open."""

TAKEN_WITHIN = 60.0
"""Seconds that a client has to make room for a message of a stream."""


class Call:
    """A call as the services see it.

    Attributes:
        caller: the address that it comes from.
    """

    def __init__(self, context: Any, places: Places, waiters: Places) -> None:
        self.caller = caller_of(context.peer())
        self._context = context
        self._places = places
        self._waiters = waiters

    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None without one."""
        remaining: float | None = self._context.time_remaining()
        return remaining

    async def write(self, message: Message | bytes) -> None:
        """Send a message of a stream; returns when the client has room for it.

        Raises:
            Refused: STREAM_NOT_READ.
        """
        try:
            async with asyncio.timeout(TAKEN_WITHIN):
                await self._context.write(message)
        except TimeoutError:
            raise Refused(
                Reason.STREAM_NOT_READ, f"no message was read for {TAKEN_WITHIN:g} s; resume"
            ) from None

    async def abort(self, code: grpc.StatusCode, details: str = "") -> None:
        """End the call with a status."""
        await self._context.abort(code, details)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Take a waiter's place in exchange for the call's own, until the end of the block.

        Raises:
            Refused: TOO_MANY_WAITERS; TOO_MANY_CALLS afterwards.
        """
        self._waiters.take(self.caller)
        self._places.give_back(self.caller)
        try:
            yield
        finally:
            self._waiters.give_back(self.caller)
            # Taken without a question: whoever has waited is answered.
            self._places.take_anyway(self.caller)


def handler(method: MethodDescriptor, answer: Any, places: Places, waiters: Places) -> Any:
    """Make the gRPC handler of a method.

    Args:
        method: its descriptor.
        answer: the servicer's method: `await answer(request, call)`; for a method whose requests
            are a stream, `answer(requests, call)` is an asynchronous iterator of responses.
        places: of the method's kind of call.
        waiters: the places of calls that wait.
    """
    ask = _each if method.client_streaming else _one

    @map_errors(method.name)
    async def behaviour(requests: Any, context: Any) -> Any:
        call = Call(context, places, waiters)
        with places.taken(call.caller):
            if method.server_streaming:
                # A status can follow a message that is never read only if this has gone ahead.
                await context.send_initial_metadata(())
            return await ask(method, answer, requests, call)

    make: Callable[..., Any] = (
        grpc.stream_stream_rpc_method_handler
        if method.server_streaming
        else grpc.stream_unary_rpc_method_handler
    )
    return make(behaviour, None, _serialised)


async def _one(
    method: MethodDescriptor, answer: Any, requests: AsyncIterator[bytes], call: Call
) -> Any:
    try:
        async with asyncio.timeout(REQUEST_WITHIN):
            raw = await anext(requests, None)
    except TimeoutError:
        raise Refused(
            Reason.INVALID_REQUEST, f"no request came within {REQUEST_WITHIN:g} s"
        ) from None
    if raw is None:
        raise Refused(Reason.INVALID_REQUEST, "the call ended without a request")
    return await answer(_decoded(method, raw), call)


async def _each(
    method: MethodDescriptor, answer: Any, requests: AsyncIterator[bytes], call: Call
) -> None:
    decoded = (_decoded(method, raw) async for raw in requests)
    async for response in answer(decoded, call):
        await call.write(response)


def _decoded(method: MethodDescriptor, raw: bytes) -> Message:
    kind = GetMessageClass(method.input_type)
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        throttled.log("warning", "request_not_decoded", method=method.name, error=error)
        raise Refused(Reason.INVALID_REQUEST, "the request cannot be decoded") from None


def _serialised(answer: Message | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()

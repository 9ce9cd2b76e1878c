"""The handler of every method: admits and counts the call, reads, answers, maps errors.

Every method is registered as one with a stream of requests. So a call is counted as soon as it is
open, also if its client never sends a request.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from service.rpc.access import Gate, GrantedBehaviour, Redact
from service.rpc.errors import Behaviour, CallRefused, ErrorReason, abort, log_error, map_errors
from service.rpc.grants import Grant, Grants
from service.rpc.limits import Quota, Quotas, caller_of
from service.rpc.measurement import Measurement

MAX_REQUEST_BYTES = 16 * 1024
"""Bytes of a request. A call that stays open keeps them, including unknown fields."""

LARGE = frozenset({"BatchGetSessions", "Forget"})
"""Methods whose requests may be as large as gRPC allows."""


class Call:
    """A call as the services see it.

    Attributes:
        caller: the client's address.
        grant: the rights of the client.
        redact: removes from an answer the fields that the client may not read, or does not want.
        abort: ends the call with a status.
        time_remaining: seconds until the deadline; None without one.
    """

    def __init__(
        self,
        context: Any,
        grant: Grant,
        redact: Redact,
        quota: Quota,
        waiters: Quota,
        count_sent: Callable[[], None],
    ) -> None:
        self.caller = caller_of(context.peer())
        self.grant = grant
        self.redact = redact
        self._write: Callable[[bytes], Awaitable[None]] = context.write
        self._count_sent = count_sent
        self.abort: Callable[..., Awaitable[None]] = partial(abort, context)
        self.time_remaining: Callable[[], float | None] = context.time_remaining
        self._quota = quota
        self._waiters = waiters

    def write(self, message: Message | bytes) -> Awaitable[None]:
        """Send a message of a stream; ends when the client has room for it."""
        self._count_sent()
        return self._write(self.redact(_serialised(message)))

    def time_left(self, most: float) -> float:
        """Return the seconds that the call may wait and still answer before its deadline."""
        remaining = self.time_remaining()
        return most if remaining is None else min(most, remaining - min(0.1, remaining / 10))

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the call as a waiter instead of its own kind; raises TOO_MANY_WAITERS."""
        self._waiters.take(self.caller)
        self._quota.give_back(self.caller)
        try:
            yield
        finally:
            self._waiters.give_back(self.caller)
            # A call that has waited is answered, even if others have used up its quota meanwhile.
            self._quota.take_anyway(self.caller)


class Handler:
    """The handler of one method.

    Args:
        method: its descriptor.
        answer: the servicer's method. `await answer(request, call)` returns the answer, or writes
            a stream of them; where requests are a stream, `answer(requests, call)` iterates.
        quotas: of the worker.
        grants: of those who may call it.
    """

    def __init__(
        self, method: MethodDescriptor, answer: Any, quotas: Quotas, grants: Grants
    ) -> None:
        self._method = method
        self._request: Any = GetMessageClass(method.input_type)
        self._answer = answer
        self._quotas = quotas
        self._gate = Gate(grants, method)
        self._measurement = Measurement(method)

    def registered(self) -> Any:
        """Make the handler that a grpc server registers."""
        method = self._method
        if method.server_streaming:
            behaviour = self._iterate if method.client_streaming else self._stream
            wrapped = self._wrapped(behaviour)
            return grpc.stream_stream_rpc_method_handler(wrapped)
        return grpc.stream_unary_rpc_method_handler(self._wrapped(self._unary))

    def _wrapped(self, behaviour: GrantedBehaviour) -> Behaviour:
        guarded = self._gate.guard(behaviour)
        return self._measurement.of_calls(map_errors(self._method.name, guarded))

    async def _unary(self, _requests: Any, context: Any, grant: Grant) -> bytes:
        call = self._opened(context, grant)
        request = await self._read(call, context, grant)
        answer = call.redact(_serialised(await self._answer(request, call)))
        _take(self._quotas.unread_bytes, call.caller, context, len(answer))
        self._measurement.count_sent()
        return answer

    async def _stream(self, _requests: Any, context: Any, grant: Grant) -> None:
        call = self._opened(context, grant)
        await self._answer(await self._read(call, context, grant), call)

    async def _iterate(self, requests: AsyncIterator[bytes], context: Any, grant: Grant) -> None:
        call = self._opened(context, grant)
        decoded = (self._decoded(raw, call, context, grant) async for raw in requests)
        async for answer in self._answer(decoded, call):
            await call.write(answer)

    def _opened(self, context: Any, grant: Grant) -> Call:
        quota = self._quotas.of(self._method)
        redact = self._gate.redactor(grant)
        count_sent = self._measurement.count_sent
        call = Call(context, grant, redact, quota, self._quotas.waiters, count_sent)
        _take(quota, call.caller, context)
        return call

    async def _read(self, call: Call, context: Any, grant: Grant) -> Message:
        seconds = self._quotas.limits.request_seconds
        try:
            async with asyncio.timeout(seconds):
                raw = await context.read()
        except TimeoutError:
            raise _invalid(f"no request came within {seconds:g} s") from None
        if raw is grpc.aio.EOF:
            raise _invalid("the call ended without a request")
        return self._decoded(raw, call, context, grant)

    def _decoded(self, raw: bytes, call: Call, context: Any, grant: Grant) -> Message:
        if len(raw) > MAX_REQUEST_BYTES and self._method.name not in LARGE:
            raise _invalid(f"the request has {len(raw):,} bytes: {MAX_REQUEST_BYTES:,} at most")
        try:
            request: Message = self._request.FromString(raw)
        except DecodeError as error:
            log_error("warning", "request_not_decoded", self._method.name, error)
            raise _invalid("the request cannot be decoded") from None
        self._gate.narrow(request, grant, context)
        call.redact = self._gate.redactor(grant, request)
        return request


def _invalid(sentence: str) -> CallRefused:
    return CallRefused(ErrorReason.INVALID_REQUEST, sentence)


def _take(quota: Quota, caller: str, context: Any, number: int = 1) -> None:
    """Take a number from a quota, and give it back when the client has read the answer."""
    quota.take(caller, number)
    context.add_done_callback(lambda _: quota.give_back(caller, number))


def _serialised(answer: Message | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()

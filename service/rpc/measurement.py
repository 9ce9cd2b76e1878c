"""Counts and times the calls of one method, under the names of go-grpc-middleware."""

import asyncio
from time import perf_counter
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor

from metrics.definitions import GRPC_HANDLED, GRPC_HANDLING, GRPC_SENT, GRPC_STARTED
from metrics.tracing import traced_call
from service.rpc.errors import Behaviour

# Spelled as in Go: existing dashboards use these names.
_CODES = {code: "".join(map(str.capitalize, code.name.split("_"))) for code in grpc.StatusCode}
_CODES[grpc.StatusCode.OK] = _OK = "OK"
_CODES[grpc.StatusCode.CANCELLED] = _CANCELED = "Canceled"


class Measurement:
    """The labels of a method, and what is measured with them."""

    def __init__(self, method: MethodDescriptor) -> None:
        kinds = {
            (False, False): "unary",
            (False, True): "server_stream",
            (True, False): "client_stream",
            (True, True): "bidi_stream",
        }
        kind = kinds[method.client_streaming, method.server_streaming]
        self._labels = kind, method.containing_service.full_name, method.name

    def count_sent(self) -> None:
        GRPC_SENT.values[self._labels] += 1

    def of_calls(self, behaviour: Behaviour) -> Behaviour:
        """Wrap the behaviour of the method: each call is counted and timed, a unary one traced."""
        kind, service, name = self._labels
        if kind == "unary" and service.startswith("desk."):  # health is asked every few seconds
            behaviour = traced_call(f"{service}/{name}", behaviour)

        async def answer(requests: Any, context: Any) -> Any:
            began, code = perf_counter(), _OK
            GRPC_STARTED.values[self._labels] += 1
            try:
                return await behaviour(requests, context)
            except BaseException as error:
                code = _code(error, context)
                raise
            finally:
                GRPC_HANDLED.values[*self._labels, code] += 1
                GRPC_HANDLING.of[self._labels].observe(perf_counter() - began)

        return answer


def _code(error: BaseException, context: Any) -> str:
    if isinstance(error, asyncio.CancelledError):
        return _CANCELED
    return _CODES.get(context.code(), "Unknown")

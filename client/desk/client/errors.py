"""Errors of the client. What may succeed when tried again is `Retryable`."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from grpc.aio import AioRpcError, UsageError

REASON_DOMAIN = "desk.v1"
"""`ErrorInfo.domain` of the service's own reasons."""


class ClientError(Exception):
    """Failure of a call.

    Attributes:
        code: the gRPC status code.
        reason: the service's reason in UPPER_SNAKE, such as `SESSION_NOT_FOUND`; "" if the error
            did not come from the service. The reasons are listed in session_service.proto.
        detail: a sentence for people.
        fields: for an invalid request, what is wrong by field name.
    """

    def __init__(
        self,
        detail: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        fields: dict[str, str] | None = None,
    ) -> None:
        super().__init__(f"{code.name}{f' ({reason})' if reason else ''}: {detail}")
        self.code = code
        self.reason = reason
        self.detail = detail
        self.fields = fields or {}


class Retryable(ClientError):
    """The same call may succeed later."""


class Unavailable(Retryable):
    """No connection, or the service is starting or stopping."""


class TimedOut(Retryable):
    """The call's deadline passed first."""


class TooMany(Retryable):
    """A limit of the service is reached."""


class Failed(ClientError):
    """The same call would fail again."""


class InvalidRequest(Failed):
    """The service refuses the request; `fields` says why."""


class NotFound(Failed):
    """The session does not exist, or has not begun."""


class OutOfRange(Failed):
    """The revision is no longer kept, or not reached yet: see `reason`."""


class PreconditionFailed(Failed):
    """The service's state or configuration does not allow the call."""


class JournalMismatch(PreconditionFailed):
    """The revision counts in another journal: everything must be read afresh."""


class Denied(Failed):
    """The caller is not known or not allowed."""


_BY_REASON: dict[str, type[ClientError]] = {"JOURNAL_MISMATCH": JournalMismatch}

# Proxies and killed servers end calls with ABORTED, CANCELLED and INTERNAL (RST_STREAM);
# repeating any call of this API is safe: what is forgotten twice is forgotten.
_BY_CODE: dict[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.ABORTED: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.INTERNAL: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOut,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TooMany,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionFailed,
    grpc.StatusCode.UNAUTHENTICATED: Denied,
    grpc.StatusCode.PERMISSION_DENIED: Denied,
}


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise the errors of this package instead of those of gRPC."""
    try:
        yield
    except AioRpcError as error:
        raise translate(error) from None
    except (UsageError, asyncio.CancelledError) as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
            raise
        # gRPC cancels the calls of a channel that is closed, but not the tasks that wait for them.
        raise Failed("the client is closed", code=grpc.StatusCode.CANCELLED) from None


def translate(error: AioRpcError) -> ClientError:
    """Return the error of this package for a gRPC error."""
    try:
        reason, fields = _details(error)
    except (AttributeError, DecodeError, TypeError):  # not the service's: a proxy's own details
        reason, fields = "", {}
    kind = _BY_REASON.get(reason) or _BY_CODE.get(error.code(), Failed)
    return kind(error.details() or "no details", code=error.code(), reason=reason, fields=fields)


# google.rpc.Status, ErrorInfo and BadRequest are read by field number: their classes would be a
# dependency of their own, googleapis-common-protos.


def _details(error: AioRpcError) -> tuple[str, dict[str, str]]:
    """Return the service's reason and the faults of an invalid request by field."""
    reason, faults = "", {}
    for type_url, detail in _packed(error):
        match type_url.rpartition("/")[2]:
            case "google.rpc.ErrorInfo":
                info = _texts(detail)
                reason = info.get(1, "") if info.get(2) == REASON_DOMAIN else ""
            case "google.rpc.BadRequest":
                violations = [_texts(part) for _, part in _fields(detail)]
                faults = {texts.get(1, ""): texts.get(2, "") for texts in violations}
    return reason, faults


def _packed(error: AioRpcError) -> Iterator[tuple[str, bytes]]:
    """Yield type and content of each detail; none if the details contradict the status."""
    pairs = list(error.trailing_metadata() or ())  # older grpcio: dict() takes it for a mapping
    metadata = dict(pairs)
    status = list(_fields(metadata.get("grpc-status-details-bin", b"")))
    if (1, error.code().value[0]) in status:
        for packed in (data for number, data in status if number == 3):
            fields = dict(_fields(packed))
            yield fields.get(1, b"").decode(errors="replace"), fields.get(2, b"")


def _texts(message: bytes) -> dict[int, str]:
    return {number: data.decode(errors="replace") for number, data in _fields(message)}


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield each field's number and value: bytes for strings, bytes and messages."""
    fields = UnknownFieldSet(Empty.FromString(message))
    for index in range(len(fields)):
        yield fields[index].field_number, fields[index].data

"""What a call can end with. What is worth trying again is `Retryable`."""

from typing import Any, cast

import grpc
from google.rpc import error_details_pb2
from grpc.aio import AioRpcError
from grpc_status import rpc_status

REASON_DOMAIN = "desk.v1"
"""`ErrorInfo.domain` of reasons that are the service's own."""


class ClientError(Exception):
    """A call failed.

    Attributes:
        code: the gRPC status code.
        reason: the service's reason in UPPER_SNAKE, such as `SESSION_NOT_FOUND`; "" where the
            error did not come from the service. The reasons are listed in session_service.proto.
        detail: a sentence for people.
        fields: of a bad request, what is wrong with which field.
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
    """The request makes no sense; `fields` says where."""


class NotFound(Failed):
    """What was asked for is not there."""


class OutOfRange(Failed):
    """The revision is no longer kept, or not reached yet; `reason` says which."""


class PreconditionFailed(Failed):
    """The service is not in the state that the call takes for granted."""


class JournalMismatch(PreconditionFailed):
    """The revision counts in another journal: everything must be read afresh."""


class Denied(Failed):
    """The caller is not known or not allowed."""


_BY_REASON: dict[str, type[ClientError]] = {"JOURNAL_MISMATCH": JournalMismatch}

# ABORTED, CANCELLED and INTERNAL are what proxies and killed servers leave behind (RST_STREAM);
# all calls of this API only read, so repeating them is safe.
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


def translate(error: AioRpcError) -> ClientError:
    """Turn a gRPC error into one of ours."""
    info, violations = _details(error)
    kind = _BY_REASON.get(info.reason) or _BY_CODE.get(error.code(), Failed)
    return kind(
        error.details() or "no details",
        code=error.code(),
        reason=info.reason,
        fields={violation.field: violation.description for violation in violations},
    )


def _details(
    error: AioRpcError,
) -> tuple[error_details_pb2.ErrorInfo, list[error_details_pb2.BadRequest.FieldViolation]]:
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in _packed(error):
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(bad_request.DESCRIPTOR):
            detail.Unpack(bad_request)
    if info.domain != REASON_DOMAIN:
        info.Clear()
    return info, list(bad_request.field_violations)


def _packed(error: AioRpcError) -> list[Any]:
    try:
        # It asks for no more of a call than what the error has too.
        status = rpc_status.from_call(cast(grpc.Call, error))
    except ValueError:  # a proxy's details that contradict the status
        return []
    return list(status.details) if status else []

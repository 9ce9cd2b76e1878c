"""Every refusal that a client can meet: its reason, its status code, and how it is told.

`google.rpc.Status` with `ErrorInfo` (and `BadRequest` for fields at fault), AIP-193.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, TypeVar

import apsw
import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

DOMAIN = "desk.v1"
"""`ErrorInfo.domain` of every refusal."""

_log = structlog.get_logger()


class Reason(StrEnum):
    """`ErrorInfo.reason`; what each means is said in proto/desk/v1."""

    INVALID_REQUEST = "INVALID_REQUEST"
    INVALID_PAGE_TOKEN = "INVALID_PAGE_TOKEN"  # noqa: S105
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    JOURNAL_MISMATCH = "JOURNAL_MISMATCH"
    SDK_APP_ID_REQUIRED = "SDK_APP_ID_REQUIRED"
    REVISION_NOT_KEPT = "REVISION_NOT_KEPT"
    REVISION_IN_FUTURE = "REVISION_IN_FUTURE"
    REVISION_NOT_REACHED = "REVISION_NOT_REACHED"
    STATE_NOT_REACHED = "STATE_NOT_REACHED"
    TOO_MANY_STREAMS = "TOO_MANY_STREAMS"
    TOO_MANY_WAITERS = "TOO_MANY_WAITERS"
    TOO_MANY_SESSIONS = "TOO_MANY_SESSIONS"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    VIEW_NOT_READY = "VIEW_NOT_READY"


CODES: dict[Reason, Code] = {
    Reason.INVALID_REQUEST: Code.INVALID_ARGUMENT,
    Reason.INVALID_PAGE_TOKEN: Code.INVALID_ARGUMENT,
    Reason.SESSION_NOT_FOUND: Code.NOT_FOUND,
    Reason.JOURNAL_MISMATCH: Code.FAILED_PRECONDITION,
    Reason.SDK_APP_ID_REQUIRED: Code.FAILED_PRECONDITION,
    Reason.REVISION_NOT_KEPT: Code.OUT_OF_RANGE,
    Reason.REVISION_IN_FUTURE: Code.OUT_OF_RANGE,
    Reason.REVISION_NOT_REACHED: Code.DEADLINE_EXCEEDED,
    Reason.STATE_NOT_REACHED: Code.DEADLINE_EXCEEDED,
    Reason.TOO_MANY_STREAMS: Code.RESOURCE_EXHAUSTED,
    Reason.TOO_MANY_WAITERS: Code.RESOURCE_EXHAUSTED,
    Reason.TOO_MANY_SESSIONS: Code.RESOURCE_EXHAUSTED,
    Reason.SHUTTING_DOWN: Code.UNAVAILABLE,
    Reason.VIEW_NOT_READY: Code.UNAVAILABLE,
}
"""The one table from our errors to gRPC's."""


class Refused(Exception):
    """A call cannot be answered, for a reason that the client is told.

    Attributes:
        reason: which one.
        violations: (field, what is wrong with it), for bad requests.
        metadata: `ErrorInfo.metadata`.
    """

    def __init__(
        self,
        reason: Reason,
        sentence: str,
        *,
        violations: tuple[tuple[str, str], ...] = (),
        **metadata: object,
    ) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.violations = violations
        self.metadata = {name: str(value) for name, value in metadata.items()}


def shutting_down() -> Refused:
    """What every open call is told when the server drains."""
    return Refused(Reason.SHUTTING_DOWN, "the server is shutting down; try another, or again")


def status_of(refused: Refused) -> Status:
    """The refusal as the wire has it."""
    details: list[ErrorInfo | BadRequest] = [
        ErrorInfo(reason=refused.reason, domain=DOMAIN, metadata=refused.metadata)
    ]
    if refused.violations:
        fields = [
            BadRequest.FieldViolation(field=field, description=description)
            for field, description in refused.violations
        ]
        details.append(BadRequest(field_violations=fields))
    return Status(code=CODES[refused.reason], message=str(refused), details=map(_packed, details))


def _packed(detail: ErrorInfo | BadRequest) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


T = TypeVar("T")
Method = Callable[[Any, Any, Any], Awaitable[T]]


def refusing(method: Method[T]) -> Method[T]:
    """Wrap an RPC method: refusals become statuses, surprises INTERNAL without internals."""

    @functools.wraps(method)
    async def answer(self: Any, request: Any, context: Any) -> T:
        try:
            return await method(self, request, context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:
            if context.cancelled() or context.done():
                # The client has left; what grpc raises then is private to it.
                raise asyncio.CancelledError from error
            await _abort(context, method.__name__, error)
            raise

    return answer


async def _abort(context: Any, method: str, error: Exception) -> None:
    if isinstance(error, apsw.Error):
        _log.error("view_not_readable", method=method, error=type(error).__name__)
        error = Refused(Reason.VIEW_NOT_READY, "the view cannot be read just now; try again")
    if isinstance(error, Refused):
        status = rpc_status.to_status(status_of(error))
        await context.abort(status.code, status.details, status.trailing_metadata)
    _log.error("rpc_failed", method=method, exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, "internal error; the server's log has it")

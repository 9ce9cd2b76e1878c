"""The errors that a client can meet: reasons, status codes, and their form on the wire.

`google.rpc.Status` with `ErrorInfo` (and `BadRequest` for fields at fault), AIP-193.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from enum import Enum
from typing import Any

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from service.view.errors import ViewError

DOMAIN = "desk.v1"
"""`ErrorInfo.domain` of every error."""

MAX_VIOLATIONS = 10
MAX_VIOLATION_BYTES = 4 * 1024
"""Faults of one request in an error, about: clients take 8 KiB of metadata by default."""

SHOWN = 64
"""Characters of a client's value in an error."""

_log = structlog.get_logger()


class ErrorReason(Enum):
    """Values of `ErrorInfo.reason`, each with its status code; proto/desk/v1 explains each."""

    def __init__(self, text: str, code: Code) -> None:
        self.text = text
        self.code = code

    INVALID_REQUEST = "INVALID_REQUEST", Code.INVALID_ARGUMENT
    INVALID_PAGE_TOKEN = "INVALID_PAGE_TOKEN", Code.INVALID_ARGUMENT
    UNAUTHENTICATED = "UNAUTHENTICATED", Code.UNAUTHENTICATED
    SCOPE_MISSING = "SCOPE_MISSING", Code.PERMISSION_DENIED
    APP_NOT_ALLOWED = "APP_NOT_ALLOWED", Code.PERMISSION_DENIED
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND", Code.NOT_FOUND
    FORGOTTEN = "FORGOTTEN", Code.NOT_FOUND
    JOURNAL_MISMATCH = "JOURNAL_MISMATCH", Code.FAILED_PRECONDITION
    SDK_APP_ID_REQUIRED = "SDK_APP_ID_REQUIRED", Code.FAILED_PRECONDITION
    REVISION_NOT_KEPT = "REVISION_NOT_KEPT", Code.OUT_OF_RANGE
    REVISION_IN_FUTURE = "REVISION_IN_FUTURE", Code.OUT_OF_RANGE
    REVISION_NOT_REACHED = "REVISION_NOT_REACHED", Code.DEADLINE_EXCEEDED
    STATE_NOT_REACHED = "STATE_NOT_REACHED", Code.DEADLINE_EXCEEDED
    TOO_MANY_STREAMS = "TOO_MANY_STREAMS", Code.RESOURCE_EXHAUSTED
    TOO_MANY_WAITERS = "TOO_MANY_WAITERS", Code.RESOURCE_EXHAUSTED
    TOO_MANY_CALLS = "TOO_MANY_CALLS", Code.RESOURCE_EXHAUSTED
    TOO_MANY_SESSIONS = "TOO_MANY_SESSIONS", Code.RESOURCE_EXHAUSTED
    TOO_MANY_WRONG_KEYS = "TOO_MANY_WRONG_KEYS", Code.RESOURCE_EXHAUSTED
    ACCESS_CHANGED = "ACCESS_CHANGED", Code.UNAVAILABLE
    SHUTTING_DOWN = "SHUTTING_DOWN", Code.UNAVAILABLE
    VIEW_NOT_READY = "VIEW_NOT_READY", Code.UNAVAILABLE
    JOURNAL_NOT_WRITABLE = "JOURNAL_NOT_WRITABLE", Code.UNAVAILABLE


class CallRefused(Exception):
    """An error for the client of a call; `violations` are (field, fault) of a bad request."""

    def __init__(
        self,
        reason: ErrorReason,
        sentence: str,
        *,
        violations: tuple[tuple[str, str], ...] = (),
        **metadata: object,
    ) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.violations = violations
        self.metadata = {name: str(value) for name, value in metadata.items()}


def shutting_down() -> CallRefused:
    """Make the error that ends open calls when the server drains."""
    return CallRefused(
        ErrorReason.SHUTTING_DOWN, "the server is shutting down; try another, or again"
    )


def forgotten(sdk_app_id: int, session_id: str, revision: int) -> CallRefused:
    """Make the error for a session that was forgotten at a revision."""
    return CallRefused(
        ErrorReason.FORGOTTEN,
        f"session {quoted(session_id)} in app {sdk_app_id} was forgotten at revision {revision}",
        forgotten_revision=revision,
    )


def status_of(refused: CallRefused) -> Status:
    """Convert an error to its form on the wire."""
    details: list[ErrorInfo | BadRequest] = [
        ErrorInfo(reason=refused.reason.text, domain=DOMAIN, metadata=refused.metadata)
    ]
    if refused.violations:
        details.append(BadRequest(field_violations=_bounded(refused.violations)))
    return Status(code=refused.reason.code, message=str(refused), details=map(_packed, details))


def _bounded(violations: Sequence[tuple[str, str]]) -> Iterator[BadRequest.FieldViolation]:
    """Return the first violations, and the number of those left out."""
    size = 0
    for number, (field, description) in enumerate(violations):
        violation = BadRequest.FieldViolation(field=field, description=description)
        size += violation.ByteSize()
        if number == MAX_VIOLATIONS or size > MAX_VIOLATION_BYTES:
            more = f"and {len(violations) - number:,} more"
            yield BadRequest.FieldViolation(field=field, description=more)
            return
        yield violation


def _packed(detail: ErrorInfo | BadRequest) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def log_error(
    level: str, event: str, method: str, error: BaseException, *, trace: bool = False
) -> None:
    """Log an error of a method; the log throttles lines with one event, method and error."""
    name = type(error).__name__
    getattr(_log, level)(
        event,
        method=method,
        error=name,
        exc_info=error if trace else None,
        throttle=(method, name),
    )


Behaviour = Callable[[Any, Any], Awaitable[Any]]


def map_errors(method: str, behaviour: Behaviour) -> Behaviour:
    """Wrap the behaviour of a method: every error becomes a status, unexpected ones INTERNAL."""

    async def answer(requests: Any, context: Any) -> Any:
        try:
            return await behaviour(requests, context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:
            await _abort(context, method, error)

    return answer


async def _abort(context: Any, method: str, error: Exception) -> None:
    """End a call with the status of an error, unless its client has left."""
    # The batches of a call whose client has left fail with an InternalError of grpc.aio.
    if context.cancelled() or context.done() or isinstance(error, grpc.aio.InternalError):
        raise asyncio.CancelledError from error
    refused = _refusal(method, error)
    error.__traceback__ = None  # its frames keep the answer, perhaps for as long as gRPC takes
    try:
        if refused is None:
            sentence = "internal error; the server's log has it"
            await abort(context, grpc.StatusCode.INTERNAL, sentence)
        else:
            status = rpc_status.to_status(status_of(refused))
            await abort(context, status.code, status.details, status.trailing_metadata)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from error


async def abort(context: Any, code: grpc.StatusCode, *details: Any) -> None:
    """End a call with a status, which `context.code` then returns."""
    context.set_code(code)
    await context.abort(code, *details)


def _refusal(method: str, error: Exception) -> CallRefused | None:
    """Return the error for the client, None for INTERNAL. Log every error of the server."""
    if isinstance(error, CallRefused):
        return error
    if isinstance(error, ViewError):
        log_error("error", "view_not_readable", method, error)
        return CallRefused(
            ErrorReason.VIEW_NOT_READY, "the view cannot be read just now; try again"
        )
    log_error("error", "rpc_failed", method, error, trace=True)
    return None


def quoted(text: str) -> str:
    """Return a client's value in quotation marks, cut to `SHOWN`, control characters escaped."""
    short = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    return json.dumps(short, ensure_ascii=False)

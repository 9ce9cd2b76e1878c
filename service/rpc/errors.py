"""The refusals that a client can meet: their reasons, their status codes, their form on the wire.

`google.rpc.Status` with `ErrorInfo` (and `BadRequest` for fields at fault), AIP-193.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from time import monotonic
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
"""`ErrorInfo.domain` of every refusal."""

LOG_PERIOD = 5.0
"""Seconds between two log lines of one kind."""

MAX_KINDS = 256
"""Kinds of log line that are counted apart; beyond that, all counts begin anew."""

MAX_VIOLATIONS = 10
MAX_VIOLATION_BYTES = 4 * 1024
"""Faults of one request that an error tells, about: clients take 8 KiB of metadata by default."""

SHOWN = 64
"""Characters of a client's value that an error shows."""

_log = structlog.get_logger()


class Reason(StrEnum):
    """Values of `ErrorInfo.reason`; proto/desk/v1 explains each."""

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
    TOO_MANY_CALLS = "TOO_MANY_CALLS"
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
    Reason.TOO_MANY_CALLS: Code.RESOURCE_EXHAUSTED,
    Reason.TOO_MANY_SESSIONS: Code.RESOURCE_EXHAUSTED,
    Reason.SHUTTING_DOWN: Code.UNAVAILABLE,
    Reason.VIEW_NOT_READY: Code.UNAVAILABLE,
}
"""The one table from our errors to gRPC's."""


class Refused(Exception):
    """A refusal of a call.

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
    """Make the error that ends the open calls when the server drains."""
    return Refused(Reason.SHUTTING_DOWN, "the server is shutting down; try another, or again")


def status_of(refused: Refused) -> Status:
    """Convert a refusal to its form on the wire."""
    details: list[ErrorInfo | BadRequest] = [
        ErrorInfo(reason=refused.reason, domain=DOMAIN, metadata=refused.metadata)
    ]
    if refused.violations:
        details.append(BadRequest(field_violations=_told(refused.violations)))
    return Status(code=CODES[refused.reason], message=str(refused), details=map(_packed, details))


def _told(violations: Sequence[tuple[str, str]]) -> list[BadRequest.FieldViolation]:
    """The first violations, and how many more there are."""
    told: list[BadRequest.FieldViolation] = []
    size = 0
    for number, (field, description) in enumerate(violations):
        violation = BadRequest.FieldViolation(field=field, description=description)
        size += violation.ByteSize()
        if number == MAX_VIOLATIONS or size > MAX_VIOLATION_BYTES:
            more = f"and {len(violations) - number:,} more"
            return [*told, BadRequest.FieldViolation(field=field, description=more)]
        told.append(violation)
    return told


def _packed(detail: ErrorInfo | BadRequest) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


class ThrottledLog:
    """Logs the first of a kind at once, then one line a period with the number left out."""

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, str, str], tuple[float, int]] = {}

    def __len__(self) -> int:
        return len(self._kinds)

    def log(
        self, level: str, event: str, *, method: str, error: BaseException, trace: bool = False
    ) -> None:
        """Log an error of a method; event, method and type of error are its kind."""
        kind, now = (event, method, type(error).__name__), self._clock()
        logged_at, more = self._kinds.get(kind, (now - LOG_PERIOD, 0))
        if now < logged_at + LOG_PERIOD:
            self._kinds[kind] = (logged_at, more + 1)
            return
        if len(self._kinds) >= MAX_KINDS:
            self._kinds.clear()
        self._kinds[kind] = (now, 0)
        getattr(_log, level)(
            event,
            method=method,
            error=type(error).__name__,
            suppressed=more,
            exc_info=error if trace else None,
        )


throttled = ThrottledLog()
"""The log of errors that are no refusals."""

Behaviour = Callable[[Any, Any], Awaitable[Any]]


def map_errors(method: str) -> Callable[[Behaviour], Behaviour]:
    """Wrap the behaviour of a method: refusals become statuses, surprises INTERNAL."""

    def wrap(behaviour: Behaviour) -> Behaviour:
        async def answer(requests: Any, context: Any) -> Any:
            try:
                return await behaviour(requests, context)
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:
                await _abort(context, method, error)

        return answer

    return wrap


async def _abort(context: Any, method: str, error: Exception) -> None:
    """End a call with the status of an error, unless its client has left."""
    # The batches of a call whose client has left fail with an InternalError of grpc.aio.
    if context.cancelled() or context.done() or isinstance(error, grpc.aio.InternalError):
        raise asyncio.CancelledError from error
    refused = _refusal(method, error)
    error.__traceback__ = None  # its frames keep the answer, perhaps for as long as gRPC takes
    try:
        if refused is None:
            await context.abort(grpc.StatusCode.INTERNAL, "internal error; the server's log has it")
        else:
            status = rpc_status.to_status(status_of(refused))
            await context.abort(status.code, status.details, status.trailing_metadata)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from error


def _refusal(method: str, error: Exception) -> Refused | None:
    """Return the refusal for an error, None if there is none. Log what is not a refusal."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, ViewError):
        throttled.log("error", "view_not_readable", method=method, error=error)
        return Refused(Reason.VIEW_NOT_READY, "the view cannot be read just now; try again")
    throttled.log("error", "rpc_failed", method=method, error=error, trace=True)
    return None


def quoted(text: str) -> str:
    """A client's value in quotation marks, without control characters, cut to `SHOWN`."""
    short = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    return json.dumps(short, ensure_ascii=False)

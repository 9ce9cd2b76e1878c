"""Answers of the gateway: an HTTP status and the vendor's three fields for each outcome.

The fields: the vendor's page "Session Event Callback", Response Packet Fields.
"""

from enum import Enum
from http import HTTPStatus

import msgspec

CONTENT_TYPE = "application/json"


class Answer(Enum):
    """Every answer: the status, a number for the cause, the sentence, seconds until a retry.

    Attributes:
        status: the HTTP status.
        status_code: its number as text.
        error_code: Desk's `ErrorCode`: 0 if and only if the callback is kept and well-formed.
            Otherwise the status times 100, plus the number for the cause.
        error_info: Desk's `ErrorInfo`: a sentence that quotes nothing from the request.
        retry_after: seconds for the `Retry-After` header; None for no header.
        body: the JSON that Desk expects.
    """

    KEPT = HTTPStatus.OK, 0, ""
    BAD_REQUEST = HTTPStatus.BAD_REQUEST, 0, "the request is not valid HTTP"
    MALFORMED = HTTPStatus.BAD_REQUEST, 1, "the body is not a callback"
    WRONG_COMMAND = HTTPStatus.BAD_REQUEST, 2, "CallbackCommand is not Desk.SessionEventNotify"
    NO_COMMAND = HTTPStatus.BAD_REQUEST, 3, "CallbackCommand is missing"
    # One answer for all reasons: the log has the reason, a sender who guesses does not get it.
    FORBIDDEN = HTTPStatus.FORBIDDEN, 0, "not authenticated"
    NOT_FOUND = HTTPStatus.NOT_FOUND, 0, "unknown path"
    WRONG_METHOD = HTTPStatus.METHOD_NOT_ALLOWED, 0, "method not allowed for this path"
    TOO_LARGE = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, 0, "the body is too large"
    ENCODED = HTTPStatus.UNSUPPORTED_MEDIA_TYPE, 0, "Content-Encoding must be identity"
    HEAD_TOO_LARGE = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, 0, "the headers are too large"
    FAILED = HTTPStatus.INTERNAL_SERVER_ERROR, 0, "unexpected error"
    NOT_SUPPORTED = HTTPStatus.NOT_IMPLEMENTED, 0, "not supported"
    UNAVAILABLE = HTTPStatus.SERVICE_UNAVAILABLE, 0, "the callback could not be kept", 2
    OVERLOADED = HTTPStatus.SERVICE_UNAVAILABLE, 1, "too many callbacks are waiting", 1
    NOT_READY = HTTPStatus.SERVICE_UNAVAILABLE, 2, "not ready", 1

    def __init__(
        self, status: HTTPStatus, cause: int, error_info: str, retry_after: int | None = None
    ) -> None:
        self.status = status
        self.status_code = str(status.value)
        self.error_code = 0 if status == HTTPStatus.OK else status * 100 + cause
        self.error_info = error_info
        self.retry_after = retry_after
        self.body = self.body_with("")

    def body_with(self, detail: str) -> bytes:
        """Return the body with a detail after the sentence."""
        fields = {
            "ActionStatus": "FAIL" if self.error_code else "OK",
            "ErrorInfo": ": ".join(filter(None, (self.error_info, detail))),
            "ErrorCode": self.error_code,
        }
        return msgspec.json.encode(fields)


BY_STATUS = {int(each.status): each for each in Answer if each.error_code == each.status * 100}
"""The answer for a status that Falcon or waitress chose; for any other it is `FAILED`."""


OUTCOMES = {
    Answer.KEPT: "kept",
    Answer.MALFORMED: "malformed",
    Answer.WRONG_COMMAND: "wrong_command",
    Answer.NO_COMMAND: "wrong_command",
    Answer.FORBIDDEN: "refused_signature",
    Answer.NOT_FOUND: "wrong_path",
    Answer.WRONG_METHOD: "wrong_method",
    Answer.TOO_LARGE: "too_large",
    Answer.ENCODED: "encoded",
    Answer.UNAVAILABLE: "unavailable",
    Answer.FAILED: "unavailable",
    Answer.OVERLOADED: "overloaded",
}
"""The outcome that an answer is counted as. Answers that are not listed are not counted."""


class RequestRejected(Exception):
    """A request that is refused and not kept.

    Attributes:
        answer: for the client.
        event: of the log.
        reason: for the log, which counts lines by event and reason.
        outcome: for the metrics.
        facts: further values for the log.
    """

    def __init__(
        self,
        answer: Answer,
        event: str = "request_refused",
        *,
        reason: str = "",
        outcome: str = "",
        **facts: object,
    ) -> None:
        super().__init__(answer.name)
        self.answer = answer
        self.event = event
        self.reason = reason or answer.error_info
        self.outcome = outcome or OUTCOMES.get(answer, "")
        self.facts = facts

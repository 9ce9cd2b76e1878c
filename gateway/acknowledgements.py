"""The gateway's answers: one table from outcome to HTTP status and the vendor's three fields.

The fields and their meaning: the vendor's page "Session Event Callback", Response Packet Fields.
Knows nothing of HTTP requests or of the journal.
"""

from enum import Enum, auto
from http import HTTPStatus

import msgspec

CONTENT_TYPE = "application/json"


class Outcome(Enum):
    """The end of a request."""

    KEPT = auto()
    MALFORMED = auto()
    NO_COMMAND = auto()
    NOT_OUR_COMMAND = auto()
    BAD_REQUEST = auto()
    FORBIDDEN = auto()
    NOT_FOUND = auto()
    WRONG_METHOD = auto()
    TOO_LARGE = auto()
    ENCODED = auto()
    HEADERS_TOO_LARGE = auto()
    FAILED = auto()
    NOT_SUPPORTED = auto()
    UNAVAILABLE = auto()
    OVERLOADED = auto()
    NOT_READY = auto()


class Acknowledgement(msgspec.Struct, frozen=True, kw_only=True):
    """One answer.

    Attributes:
        status: the HTTP status.
        error_code: Desk's `ErrorCode`: 0 if and only if the callback is kept and makes sense.
            Ours are the HTTP status times 100, plus a number that tells causes apart.
        error_info: Desk's `ErrorInfo`: a sentence without anything from the request.
        retry_after: seconds for the `Retry-After` header; None for none.
    """

    status: HTTPStatus
    error_code: int = 0
    error_info: str = ""
    retry_after: int | None = None

    def body(self, detail: str = "") -> bytes:
        """Return the JSON that Desk expects; `detail` goes after the sentence."""
        fields = {
            "ActionStatus": "FAIL" if self.error_code else "OK",
            "ErrorInfo": f"{self.error_info}: {detail}" if detail else self.error_info,
            "ErrorCode": self.error_code,
        }
        return msgspec.json.encode(fields)


def _fail(
    status: HTTPStatus, cause: int, info: str, *, retry_after: int | None = None
) -> Acknowledgement:
    return Acknowledgement(
        status=status, error_code=status * 100 + cause, error_info=info, retry_after=retry_after
    )


ACKNOWLEDGEMENTS = {
    Outcome.KEPT: Acknowledgement(status=HTTPStatus.OK),
    Outcome.BAD_REQUEST: _fail(HTTPStatus.BAD_REQUEST, 0, "the request is not valid HTTP"),
    Outcome.MALFORMED: _fail(HTTPStatus.BAD_REQUEST, 1, "the body is not a callback"),
    Outcome.NO_COMMAND: _fail(HTTPStatus.BAD_REQUEST, 3, "CallbackCommand is missing"),
    Outcome.NOT_OUR_COMMAND: _fail(HTTPStatus.BAD_REQUEST, 2, "CallbackCommand is not ours"),
    # One answer for all reasons: which one it was is for our log, not for whoever is guessing.
    Outcome.FORBIDDEN: _fail(HTTPStatus.FORBIDDEN, 0, "not authenticated"),
    Outcome.NOT_FOUND: _fail(HTTPStatus.NOT_FOUND, 0, "there is nothing at this path"),
    Outcome.WRONG_METHOD: _fail(
        HTTPStatus.METHOD_NOT_ALLOWED, 0, "this path does not take this method"
    ),
    Outcome.TOO_LARGE: _fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, 0, "the body is too large"),
    Outcome.ENCODED: _fail(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE, 0, "Content-Encoding other than identity"
    ),
    Outcome.HEADERS_TOO_LARGE: _fail(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, 0, "the headers are too large"
    ),
    Outcome.FAILED: _fail(HTTPStatus.INTERNAL_SERVER_ERROR, 0, "unexpected error"),
    Outcome.NOT_SUPPORTED: _fail(HTTPStatus.NOT_IMPLEMENTED, 0, "not supported"),
    Outcome.UNAVAILABLE: _fail(
        HTTPStatus.SERVICE_UNAVAILABLE, 0, "the callback could not be kept", retry_after=2
    ),
    Outcome.OVERLOADED: _fail(
        HTTPStatus.SERVICE_UNAVAILABLE, 1, "too many callbacks are waiting", retry_after=1
    ),
    Outcome.NOT_READY: _fail(HTTPStatus.SERVICE_UNAVAILABLE, 2, "not ready", retry_after=1),
}
"""Every answer that the gateway gives."""

BY_STATUS = {
    400: Outcome.BAD_REQUEST,
    404: Outcome.NOT_FOUND,
    405: Outcome.WRONG_METHOD,
    413: Outcome.TOO_LARGE,
    431: Outcome.HEADERS_TOO_LARGE,
    501: Outcome.NOT_SUPPORTED,
}
"""The outcome for a status that Falcon or waitress chose; any other is `FAILED`."""

BODIES = {outcome: answer.body() for outcome, answer in ACKNOWLEDGEMENTS.items()}
"""The bodies, encoded once."""

"""The HTTP routes: a callback is checked, made durable, and only then acknowledged.

The request: docs/callbacks.md. One Falcon app for any WSGI server. It waits in `journal.append`, on
the event that it is given, so that our server spends no thread on it. Must not know what a callback
means.
"""

import threading
import time
import traceback
from collections.abc import Callable
from time import monotonic
from typing import Any
from urllib.parse import quote

import falcon
import structlog

from gateway.answers import BY_STATUS, CONTENT_TYPE, OUTCOMES, Answer, RequestRejected
from gateway.authentication import Authenticator
from gateway.callback_request import read_callback
from gateway.limits import BUDGET, MAX_BODY
from gateway.measurement import ARRIVED, LAST_CALLBACKS, count, observe, start_counting
from gateway.options import LIVE, READY
from journal.entry import Appended, NewEntry
from journal.errors import AppendTimedOut, JournalError, Overloaded
from journal.port import JournalWriter, Waiter
from metrics.tracing import span

CONDITION = "gateway.condition"
"""WSGI environ, optional: why the server wants no more traffic; "" if it does."""

LOGGED_PATH = 100
"""Characters of the path of a refused request that are logged."""

App = falcon.App[falcon.Request, falcon.Response]

_log = structlog.get_logger(__name__)


def create_app(
    journal: JournalWriter,
    authenticator: Authenticator,
    *,
    path: str = "/",
    event: Callable[[], Waiter] = threading.Event,
    clock: Callable[[], float] = time.time,
    budget: float = BUDGET,
    notice: Callable[[], str] = lambda: "",
) -> App:
    """Return the WSGI application.

    Args:
        journal: keeps the callbacks.
        authenticator: knows the apps and their tokens.
        path: of the callback URL; see `check_callback_path`.
        event: makes the event on which a request waits until its callback is durable.
        clock: Unix time in seconds.
        budget: seconds from the arrival of a request to its answer.
        notice: a line that the readiness probe shows while the gateway is ready.
    """
    start_counting(authenticator.sdk_app_ids)
    app = App(media_type=CONTENT_TYPE)
    app.add_route(path, _CallbackUrl(journal, authenticator, event, clock, budget))
    app.add_route(LIVE, _Probe(lambda req: ""))
    app.add_route(READY, _Probe(lambda req: req.env.get(CONDITION) or journal.trouble(), notice))
    app.add_error_handler(Exception, _answer_unexpected)
    app.add_error_handler(falcon.HTTPError, _answer_http_error)
    app.add_error_handler(RequestRejected, _answer_rejected)
    return app


class _CallbackUrl:
    def __init__(
        self,
        journal: JournalWriter,
        authenticator: Authenticator,
        event: Callable[[], Waiter],
        clock: Callable[[], float],
        budget: float,
    ) -> None:
        self._journal = journal
        self._authenticator = authenticator
        self._event = event
        self._clock = clock
        self._budget = budget

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Keep one callback."""
        deadline = (req.env.get(ARRIVED) or monotonic()) + self._budget
        body = _read_body(req)
        entry, fault = read_callback(self._authenticator, req.params, body, self._clock())
        if fault:
            _warn("callback_malformed", fault, sdk_app_id=entry.sdk_app_id)
        appended = self._append(entry, deadline - monotonic())
        if appended.revision:
            resp.set_header("Desk-Revision", str(appended.revision))
        resp.set_header("Desk-Journal-Id", self._journal.id)
        answer = Answer.MALFORMED if fault else Answer.KEPT
        LAST_CALLBACKS[entry.sdk_app_id] = entry.received_at
        repeated = appended.duplicate and not fault
        count("duplicate" if repeated else OUTCOMES[answer], entry.sdk_app_id)
        _answer(req, resp, answer, fault)

    def _append(self, entry: NewEntry, timeout: float) -> Appended:
        try:
            if timeout <= 0:
                raise Overloaded("the request waited too long for its turn")
            with span("append"):
                return self._journal.append(entry, timeout=timeout, event=self._event)
        except JournalError as error:
            answer = Answer.OVERLOADED if isinstance(error, Overloaded) else Answer.UNAVAILABLE
            outcome = "timed_out" if isinstance(error, AppendTimedOut) else ""
            reason = type(error).__name__
        raise RequestRejected(
            answer,
            "callback_not_kept",
            reason=reason,
            outcome=outcome,
            sdk_app_id=entry.sdk_app_id,
        )


class _Probe:
    """A probe of the gateway's health. `trouble` returns why it fails, and asks no disk."""

    def __init__(
        self, trouble: Callable[[falcon.Request], str], notice: Callable[[], str] = lambda: ""
    ) -> None:
        self._trouble = trouble
        self._notice = notice

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        trouble = self._trouble(req)
        _answer(req, resp, Answer.NOT_READY if trouble else Answer.KEPT, trouble or self._notice())

    on_head = on_get


def _read_body(req: falcon.Request) -> bytes:
    """Return a body that is complete, not too large, and not encoded."""
    if req.env.get("HTTP_CONTENT_ENCODING", "").lower() not in ("", "identity"):
        raise RequestRejected(Answer.ENCODED)
    length = req.content_length or 0
    if length > MAX_BODY:
        raise RequestRejected(Answer.TOO_LARGE, limit=MAX_BODY)
    stream = req.stream if req.env.get("wsgi.input_terminated") else req.bounded_stream
    body: bytes = stream.read(MAX_BODY + 1)
    if len(body) > MAX_BODY:
        raise RequestRejected(Answer.TOO_LARGE, limit=MAX_BODY)
    if len(body) < length:  # the client left before the end
        raise RequestRejected(Answer.BAD_REQUEST)
    return body


def _answer(req: falcon.Request, resp: falcon.Response, answer: Answer, detail: str = "") -> None:
    if arrived := req.env.get(ARRIVED):
        observe(req.method, req.uri_template, answer.status_code, arrived)
    resp.status = answer.status
    resp.data = answer.body_with(detail) if detail else answer.body
    if answer.retry_after is not None:
        resp.set_header("Retry-After", str(answer.retry_after))


def _answer_rejected(
    req: falcon.Request, resp: falcon.Response, error: RequestRejected, params: dict[str, Any]
) -> None:
    _warn(error.event, error.reason, **error.facts)
    is_refused = error.outcome == "refused_app"
    count(error.outcome, None if is_refused else error.facts.get("sdk_app_id"))
    _answer(req, resp, error.answer)


def _answer_http_error(
    req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, params: dict[str, Any]
) -> None:
    """Answer Falcon's own refusals: unknown path, wrong method, invalid header."""
    is_probe = req.path in (LIVE, READY)
    if req.method not in falcon.COMBINED_METHODS:  # Falcon calls it a bad request
        error = falcon.HTTPMethodNotAllowed(["GET", "HEAD"] if is_probe else ["POST"])
    if error.headers:
        resp.set_headers(error.headers)
    answer = BY_STATUS.get(error.status_code, Answer.FAILED)
    _warn("request_refused", answer.error_info, **_line_of(req))
    if not is_probe:
        count(OUTCOMES.get(answer, ""))
    _answer(req, resp, answer)


def _line_of(req: falcon.Request) -> dict[str, str]:
    """Return method and path for the log, bounded, and never the query: it has the signature."""
    method = req.method if req.method in falcon.COMBINED_METHODS else "_OTHER"
    return {"method": method, "path": quote(req.path[:LOGGED_PATH], errors="replace")}


def _answer_unexpected(
    req: falcon.Request, resp: falcon.Response, error: Exception, params: dict[str, Any]
) -> None:
    """Answer a bug, and log its place only: an exception's message may quote the request."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    places = [f"{frame.name}:{frame.lineno}" for frame in frames]
    _warn("unexpected_error", type(error).__name__, at=places)
    count(OUTCOMES[Answer.FAILED])
    _answer(req, resp, Answer.FAILED)


def _warn(event: str, reason: str, **facts: Any) -> None:
    """Log a line, at most one in a while for each event and reason; see `command.throttle`."""
    _log.warning(event, reason=reason, throttle=reason, **facts)

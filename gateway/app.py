"""The HTTP routes: a callback is checked, made durable, and only then acknowledged.

The request: docs/callbacks.md. One Falcon app for any WSGI server; it waits in `journal.append`.
How it waits is an argument, so that our server need not spend a thread on it. Must not know what a
callback means.
"""

import threading
import time
import traceback
from collections.abc import Callable
from time import monotonic
from typing import Any

import falcon
import structlog

from gateway.acknowledgements import ACKNOWLEDGEMENTS, BODIES, BY_STATUS, CONTENT_TYPE, Outcome
from gateway.callbacks import MAX_BODY, Callbacks, Options, Rejected
from gateway.paths import LIVE, PROBES, READY
from gateway.throttled_log import ThrottledLog
from journal.entry import Appended, NewEntry
from journal.errors import JournalError, Overloaded
from journal.port import JournalWriter, Waiter

BUDGET = 1.5
"""Seconds from the arrival of a request to its answer. Desk expects one within about 2 s
(docs/callbacks.md); what is left is for the network and a proxy."""

ARRIVED = "gateway.arrived"
"""WSGI environ, optional: when the request's last byte came, `time.monotonic`."""

CONDITION = "gateway.condition"
"""WSGI environ, optional: why the server wants no more traffic; "" if it does."""

App = falcon.App[falcon.Request, falcon.Response]

_log = structlog.get_logger(__name__)


def create_app(
    journal: JournalWriter,
    options: Options,
    *,
    event: Callable[[], Waiter] = threading.Event,
    clock: Callable[[], float] = time.time,
    log: ThrottledLog | None = None,
) -> App:
    """Return the WSGI application.

    Args:
        journal: where callbacks are kept.
        options: whose callbacks, and where.
        event: makes what a request waits on until it is durable.
        clock: Unix time in seconds.
        log: for refusals.
    """
    log = log or ThrottledLog()
    answers = _Answers(log)
    callbacks = Callbacks(options, log, clock)
    app = App(media_type=CONTENT_TYPE)
    app.add_route(options.path, _CallbackUrl(journal, callbacks, event, log))
    app.add_route(LIVE, _Live())
    app.add_route(READY, _Ready(journal))
    app.add_error_handler(Exception, answers.unexpected)
    app.add_error_handler(falcon.HTTPError, answers.http_error)
    app.add_error_handler(Rejected, answers.rejected)
    return app


class _CallbackUrl:
    def __init__(
        self,
        journal: JournalWriter,
        callbacks: Callbacks,
        event: Callable[[], Waiter],
        log: ThrottledLog,
    ) -> None:
        self._journal = journal
        self._callbacks = callbacks
        self._event = event
        self._log = log

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Keep one callback."""
        arrived = req.env.get(ARRIVED) or monotonic()
        entry, fault = self._callbacks.accept(req.params, _read_body(req))
        appended = self._append(entry, arrived + BUDGET - monotonic())
        resp.set_header("Desk-Revision", str(appended.revision))
        resp.set_header("Desk-Journal-Id", self._journal.id)
        if fault:
            _answer(resp, Outcome.MALFORMED, fault)
        else:
            resp.data = BODIES[Outcome.KEPT]

    def _append(self, entry: NewEntry, timeout: float) -> Appended:
        try:
            if timeout <= 0:
                raise Overloaded("the request waited for too long before its turn came")
            return self._journal.append(entry, timeout=timeout, event=self._event)
        except JournalError as error:
            reason = type(error).__name__
            self._log.log("callback_not_kept", reason=reason, sdk_app_id=entry.sdk_app_id)
            overloaded = isinstance(error, Overloaded)
            outcome = Outcome.OVERLOADED if overloaded else Outcome.UNAVAILABLE
        raise Rejected(outcome)


class _Live:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Say that the process is alive."""
        resp.data = BODIES[Outcome.KEPT]

    on_head = on_get


class _Ready:
    def __init__(self, journal: JournalWriter) -> None:
        self._journal = journal

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Say that the gateway should get traffic, or why not. Asks no disk."""
        if trouble := req.env.get(CONDITION) or self._journal.trouble():
            _answer(resp, Outcome.NOT_READY, trouble)
        else:
            resp.data = BODIES[Outcome.KEPT]

    on_head = on_get


class _Answers:
    """Answers what did not go well, and logs it without a word of the request."""

    def __init__(self, log: ThrottledLog) -> None:
        self._log = log

    def rejected(
        self, req: falcon.Request, resp: falcon.Response, error: Rejected, params: dict[str, Any]
    ) -> None:
        """Answer a callback that is not kept."""
        if error.outcome in _REFUSALS:
            self._log_refusal(error.outcome)
        _answer(resp, error.outcome)

    def http_error(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        error: falcon.HTTPError,
        params: dict[str, Any],
    ) -> None:
        """Answer Falcon's own refusals: no such path, no such method, an invalid header."""
        if req.method not in falcon.COMBINED_METHODS:  # which Falcon calls a bad request
            error = falcon.HTTPMethodNotAllowed(["GET", "HEAD"] if req.path in PROBES else ["POST"])
        if error.headers:
            resp.set_headers(error.headers)
        outcome = BY_STATUS.get(error.status_code, Outcome.FAILED)
        self._log_refusal(outcome)
        _answer(resp, outcome)

    def unexpected(
        self, req: falcon.Request, resp: falcon.Response, error: Exception, params: dict[str, Any]
    ) -> None:
        """Answer a bug. Log where, and not what: an exception's message may quote the request."""
        frames = traceback.extract_tb(error.__traceback__)[-5:]
        self._log.log(
            "unexpected_error",
            reason=type(error).__name__,
            at=[f"{frame.name}:{frame.lineno}" for frame in frames],
        )
        _answer(resp, Outcome.FAILED)

    def _log_refusal(self, outcome: Outcome) -> None:
        self._log.log("request_refused", reason=ACKNOWLEDGEMENTS[outcome].error_info)


_REFUSALS = {Outcome.TOO_LARGE, Outcome.ENCODED, Outcome.BAD_REQUEST}
"""Rejections that nobody else has logged."""


def _answer(resp: falcon.Response, outcome: Outcome, detail: str = "") -> None:
    answer = ACKNOWLEDGEMENTS[outcome]
    resp.status = answer.status
    resp.data = answer.body(detail) if detail else BODIES[outcome]
    if answer.retry_after is not None:
        resp.set_header("Retry-After", str(answer.retry_after))


def _read_body(req: falcon.Request) -> bytes:
    """Return a body that is whole, not too large, and not encoded."""
    if req.env.get("HTTP_CONTENT_ENCODING", "").lower() not in ("", "identity"):
        raise Rejected(Outcome.ENCODED)
    length = req.content_length or 0
    if length > MAX_BODY:
        raise Rejected(Outcome.TOO_LARGE)
    terminated = req.env.get("wsgi.input_terminated")
    stream = req.stream if terminated else req.bounded_stream
    body: bytes = stream.read(MAX_BODY + 1)
    if len(body) > MAX_BODY:
        raise Rejected(Outcome.TOO_LARGE)
    if len(body) < length:  # the client left in the middle: this is not what it wanted to say
        raise Rejected(Outcome.BAD_REQUEST)
    return body

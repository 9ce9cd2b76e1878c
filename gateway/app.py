"""The HTTP routes: a callback is authenticated, made durable, and only then acknowledged.

The request: docs/callbacks.md. Runs on any WSGI server. Ours bound what waits, drain, and take
callbacks around WSGI: docs/adr/0013-callbacks-go-around-wsgi.md. Must not know what a callback
means.
"""

import time
import traceback
from collections.abc import Callable
from typing import Any

import falcon
import structlog

from gateway.acknowledgements import ACKNOWLEDGEMENTS, BODIES, BY_STATUS, CONTENT_TYPE, Outcome
from gateway.callbacks import BUDGET, MAX_BODY, Callbacks, Options, Rejected
from gateway.paths import LIVE, PROBES, READY
from gateway.readiness import Readiness
from journal.port import Journal

CONDITION = "gateway.condition"
"""WSGI environ, optional: why the server wants no more traffic; "" if it does."""

_log = structlog.get_logger(__name__)


class App(falcon.App[falcon.Request, falcon.Response]):
    """The WSGI application, and the part of it that a server may ask without WSGI.

    Attributes:
        callbacks: what answers a POST to the callback URL; None: the application, as all else.
    """

    def __init__(self, callbacks: Callbacks | None = None) -> None:
        super().__init__(media_type=CONTENT_TYPE)
        self.callbacks = callbacks


def create_app(
    journal: Journal, options: Options, *, clock: Callable[[], float] = time.time
) -> App:
    """Return the WSGI application.

    Args:
        journal: where callbacks are kept.
        options: whose callbacks, and where.
        clock: Unix time in seconds.
    """
    readiness = Readiness(journal)
    callbacks = Callbacks(journal, options, readiness, clock)
    app = App(callbacks)
    app.add_route(options.path, _CallbackUrl(callbacks))
    app.add_route(LIVE, Live())
    app.add_route(READY, Ready(readiness))
    app.add_error_handler(Exception, _answer_unexpected)
    app.add_error_handler(falcon.HTTPError, _answer_http_error)
    return app


class _CallbackUrl:
    def __init__(self, callbacks: Callbacks) -> None:
        self._callbacks = callbacks

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Keep one callback."""
        encoding = req.env.get("HTTP_CONTENT_ENCODING", "")
        try:
            entry, fault = self._callbacks.accept(req.query_string, encoding, _read_body(req))
            self._callbacks.append(entry, timeout=BUDGET)
        except Rejected as rejected:
            _answer(resp, rejected.outcome)
        else:
            if fault:
                _answer(resp, Outcome.MALFORMED, fault)
            else:
                resp.data = BODIES[Outcome.KEPT]


class Live:
    """Whether the process is alive: it is, if it answers."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Say so."""
        resp.data = BODIES[Outcome.KEPT]

    on_head = on_get


class Ready:
    """Whether the gateway should get traffic."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Say so, or why not."""
        if trouble := req.env.get(CONDITION) or self._readiness.trouble():
            _answer(resp, Outcome.NOT_READY, trouble)
        else:
            resp.data = BODIES[Outcome.KEPT]

    on_head = on_get


def _answer(resp: falcon.Response, outcome: Outcome, detail: str = "") -> None:
    answer = ACKNOWLEDGEMENTS[outcome]
    resp.status = answer.status
    resp.data = answer.body(detail) if detail else BODIES[outcome]
    if answer.retry_after is not None:
        resp.set_header("Retry-After", str(answer.retry_after))


def _answer_http_error(
    req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, params: dict[str, Any]
) -> None:
    """Falcon's own refusals: no such path, no such method, an invalid header."""
    if req.method not in falcon.COMBINED_METHODS:  # which Falcon calls a bad request
        error = falcon.HTTPMethodNotAllowed(["GET", "HEAD"] if req.path in PROBES else ["POST"])
    if error.headers:
        resp.set_headers(error.headers)
    _answer(resp, BY_STATUS.get(error.status_code, Outcome.FAILED))


def log_unexpected(error: Exception) -> None:
    """Log where, and not what: the message of an exception may quote the request."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    _log.error(
        "unexpected_error",
        error=type(error).__name__,
        at=[f"{frame.name}:{frame.lineno}" for frame in frames],
    )


def _answer_unexpected(
    req: falcon.Request, resp: falcon.Response, error: Exception, params: dict[str, Any]
) -> None:
    log_unexpected(error)
    _answer(resp, Outcome.FAILED)


def _read_body(req: falcon.Request) -> bytes:
    length = req.content_length or 0
    if length > MAX_BODY:
        raise Rejected(Outcome.TOO_LARGE)
    if req.env.get("wsgi.input_terminated"):
        body: bytes = req.stream.read(MAX_BODY + 1)
    else:
        body = req.bounded_stream.read(MAX_BODY + 1)
    if len(body) < length:  # the client left in the middle: this is not what it wanted to say
        raise Rejected(Outcome.BAD_REQUEST)
    return body

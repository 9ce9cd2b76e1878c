"""The HTTP routes: a callback is authenticated, made durable, and only then acknowledged.

The request: docs/callbacks.md. Runs on any WSGI server; `gateway.server` is the one that also
bounds what waits, and drains. Must not know what a callback means.
"""

import re
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

import falcon
import structlog

from gateway.acknowledgements import ACKNOWLEDGEMENTS, BODIES, BY_STATUS, CONTENT_TYPE, Outcome
from gateway.authentication import Authenticator, Parameters, Refused
from gateway.complaints import Complaints
from gateway.paths import LIVE, PROBES, READY, check_callback_path
from gateway.readiness import Readiness
from journal.callback import COMMAND, Malformed, examine
from journal.entry import NewEntry
from journal.errors import JournalError, Overloaded
from journal.port import Journal

MAX_BODY = 256 * 1024
"""Bytes of a body; Desk's own are a few KiB."""

BUDGET = 1.5
"""Seconds from the arrival of a request to its answer. Desk expects one within about 2 s
(docs/callbacks.md); what is left is for the network and a proxy."""

MAX_PARAMETER = 128
"""Characters kept of `RequestID`, `ClientIP` and `OptPlatform`."""

ARRIVED = "gateway.arrived"
"""WSGI environ, optional: when the request had arrived in full, on `time.monotonic`."""

HOLD = "gateway.hold"
"""WSGI environ, optional: `hold(kept, judge, timeout)` makes the server hold the answer back until
the future `kept` is done, at most `timeout` s, while it serves others. Then it calls `judge` with
what `kept` raised (TimeoutError: it is not done), or None; the outcome that `judge` returns, if it
returns one, takes the answer's place."""

CONDITION = "gateway.condition"
"""WSGI environ, optional: why the server wants no more traffic; "" if it does."""

# Control characters and lone surrogates, which neither SQLite nor protobuf takes as text.
_NOT_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the gateway is told by its operator.

    Attributes:
        sdk_app_ids: the apps that are ours.
        tokens: per app the callback tokens that are valid; no entry: no signature is asked for.
        path: the path of the callback URL.

    Raises:
        ValueError: an app that cannot be, a token that protects nothing, or a path that cannot
            be served.
    """

    sdk_app_ids: frozenset[int]
    tokens: Mapping[int, tuple[str, ...]] = field(repr=False)
    path: str = "/"

    def __post_init__(self) -> None:
        if not all(0 < app < 2**63 for app in self.sdk_app_ids):
            raise ValueError("an SDKAppID is a number from 1 to 2^63 - 1")
        if not self.tokens.keys() <= self.sdk_app_ids:
            raise ValueError("there is a token for an app that is not among the SDKAppIDs")
        if not all(valid and all(valid) for valid in self.tokens.values()):
            raise ValueError("an app has an empty token or an empty list of tokens")
        check_callback_path(self.path)


def create_app(
    journal: Journal, options: Options, *, clock: Callable[[], float] = time.time
) -> falcon.App[falcon.Request, falcon.Response]:
    """Return the WSGI application.

    Args:
        journal: where callbacks are kept.
        options: whose callbacks, and where.
        clock: Unix time in seconds.
    """
    readiness = Readiness(journal)
    app = falcon.App(media_type=CONTENT_TYPE)
    app.add_route(options.path, Callbacks(journal, options, readiness, clock))
    app.add_route(LIVE, Live())
    app.add_route(READY, Ready(readiness))
    app.add_error_handler(Exception, _answer_unexpected)
    app.add_error_handler(falcon.HTTPError, _answer_http_error)
    return app


class Rejected(Exception):
    """The request ends here.

    Attributes:
        outcome: how.
        detail: more for the sender, without anything from the request.
    """

    def __init__(self, outcome: Outcome, detail: str = "") -> None:
        super().__init__(outcome.name)
        self.outcome = outcome
        self.detail = detail


class Callbacks:
    """The callback URL."""

    def __init__(
        self,
        journal: Journal,
        options: Options,
        readiness: Readiness,
        clock: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._readiness = readiness
        self._clock = clock
        self._complaints = Complaints()
        self._authenticator = Authenticator(options.sdk_app_ids, options.tokens)

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Keep one callback."""
        try:
            entry, fault = self._accept(req)
            self._keep(entry, req.env)
        except Rejected as rejected:
            _answer(resp, rejected.outcome, rejected.detail)
        else:
            if fault:
                self._answer_malformed(resp, str(fault), entry.sdk_app_id)
            else:
                resp.data = BODIES[Outcome.KEPT]

    def _answer_malformed(self, resp: falcon.Response, why: str, sdk_app_id: int) -> None:
        self._complaints.log("callback_malformed", reason=why, sdk_app_id=sdk_app_id)
        _answer(resp, Outcome.MALFORMED, why)

    def _accept(self, req: falcon.Request) -> tuple[NewEntry, Malformed | None]:
        body = _read_body(req)
        now = self._clock()
        parameters = req.params
        sdk_app_id = self._authenticate(parameters, now)
        if parameters.get("CallbackCommand") != COMMAND:
            self._complaints.log("callback_not_ours", sdk_app_id=sdk_app_id)
            raise Rejected(Outcome.NOT_OUR_COMMAND)
        identity, fault = examine(sdk_app_id, body)
        entry = NewEntry(
            id=identity,
            sdk_app_id=sdk_app_id,
            received_at=int(now * 1000),
            request_id=_text(parameters, "RequestID"),
            client_ip=_text(parameters, "ClientIP"),
            platform=_text(parameters, "OptPlatform"),
            body=body,
        )
        return entry, fault

    def _authenticate(self, parameters: Parameters, now: float) -> int:
        try:
            return self._authenticator.authenticate(parameters, now)
        except Refused as refused:
            self._complaints.log(
                "callback_refused",
                reason=refused.reason.value,
                sdk_app_id=refused.sdk_app_id,
                age=refused.age,
            )
        raise Rejected(Outcome.FORBIDDEN)

    def _keep(self, entry: NewEntry, environ: dict[str, Any]) -> None:
        left = BUDGET - (monotonic() - environ.get(ARRIVED, monotonic()))
        if left <= 0:
            self._complaints.log("callback_overdue", sdk_app_id=entry.sdk_app_id)
            raise Rejected(Outcome.OVERLOADED)
        judge = partial(self._judge, entry.sdk_app_id)
        try:
            if hold := environ.get(HOLD):
                hold(self._journal.submit(entry), judge, left)
            else:
                self._journal.append(entry, timeout=left)
                judge(None)
        except JournalError as error:
            raise Rejected(judge(error) or Outcome.UNAVAILABLE) from None

    def _judge(self, sdk_app_id: int, error: BaseException | None) -> Outcome | None:
        """Note how an append went; the outcome, if it went wrong."""
        if error is None:
            self._readiness.append_succeeded()
            return None
        self._readiness.append_failed()
        why = type(error).__name__
        self._complaints.log("callback_not_kept", reason=why, sdk_app_id=sdk_app_id)
        return Outcome.OVERLOADED if isinstance(error, Overloaded) else Outcome.UNAVAILABLE


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


def _answer_unexpected(
    req: falcon.Request, resp: falcon.Response, error: Exception, params: dict[str, Any]
) -> None:
    # Where, and not what: the message of an exception may quote the request.
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    _log.error(
        "unexpected_error",
        error=type(error).__name__,
        at=[f"{frame.name}:{frame.lineno}" for frame in frames],
    )
    _answer(resp, Outcome.FAILED)


def _read_body(req: falcon.Request) -> bytes:
    if req.env.get("HTTP_CONTENT_ENCODING", "").strip().lower() not in ("", "identity"):
        raise Rejected(Outcome.ENCODED)
    length = req.content_length or 0
    if length > MAX_BODY:
        raise Rejected(Outcome.TOO_LARGE)
    if req.env.get("wsgi.input_terminated"):
        body: bytes = req.stream.read(MAX_BODY + 1)
    else:
        body = req.bounded_stream.read(MAX_BODY + 1)
    if len(body) > MAX_BODY:
        raise Rejected(Outcome.TOO_LARGE)
    if len(body) < length:  # the client left in the middle: this is not what it wanted to say
        raise Rejected(Outcome.BAD_REQUEST)
    return body


def _text(parameters: Parameters, name: str) -> str:
    """A parameter that only describes; of a repeated one, the first value."""
    value = parameters.get(name, "")
    if isinstance(value, list):
        value = value[0]
    return _NOT_TEXT.sub("\ufffd", value[:MAX_PARAMETER])

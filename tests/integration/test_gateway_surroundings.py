"""The app on another WSGI server, on the real journal, and what it writes to its log."""

import http.client
import math
import threading
import time
from io import BytesIO
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.validate import validator

import pytest
from falcon.testing import create_environ
from structlog.testing import capture_logs

from command.throttle import Throttle
from gateway.app import create_app
from gateway.authentication import Authenticator
from gateway.limits import BUDGET, MAX_BODY
from gateway.measurement import ARRIVED
from journal.errors import Unavailable
from journal.memory import MemoryJournal
from journal.port import Journal
from journal.sqlite import SqliteReader, SqliteWriter
from tests.support.callbacks import APP, NOON
from tests.support.callbacks import body as callback
from tests.support.gateway import (
    CALLBACK,
    FailingJournal,
    Gateway,
    StallingJournal,
    gateway,
    query,
    sign,
)

NOW = 1725540000


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere():
    """The app on the standard library's server, behind its checker of the WSGI rules."""
    journal = MemoryJournal()
    app = create_app(journal, Authenticator(frozenset({APP}), {}))
    with make_server("127.0.0.1", 0, validator(app), handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Gateway(server.server_port, journal)
        server.shutdown()
        thread.join(60)


def test_the_app_runs_on_any_wsgi_server(elsewhere):
    elsewhere.post().assert_ok()
    elsewhere.post(b"nonsense").assert_fail(400)
    elsewhere.post(b"").assert_fail(400)
    elsewhere.post(SdkAppid=1).assert_fail(403)
    elsewhere.post(headers={"Content-Encoding": "gzip"}).assert_fail(415)
    elsewhere.ask("GET", "/").assert_fail(405)
    elsewhere.ask("GET", "/nowhere").assert_fail(404)
    elsewhere.ask("GET", "/livez").assert_ok()
    elsewhere.ask("GET", "/readyz").assert_ok()
    assert elsewhere.bodies() == [CALLBACK, b"nonsense", b""]


def test_a_body_that_breaks_off_is_not_kept(elsewhere):
    connection = http.client.HTTPConnection("127.0.0.1", elsewhere.port, timeout=60)
    connection.putrequest("POST", f"/?SdkAppid={APP}&CallbackCommand=Desk.SessionEventNotify")
    connection.putheader("Content-Length", str(len(CALLBACK) + 1))
    connection.endheaders(CALLBACK)
    connection.sock.shutdown(1)
    assert connection.getresponse().status == 400
    connection.close()
    assert elsewhere.kept() == []


def test_a_body_that_is_too_large_is_refused_elsewhere_too(elsewhere):
    connection = http.client.HTTPConnection("127.0.0.1", elsewhere.port, timeout=60)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", str(MAX_BODY + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def call(journal: Journal, body: bytes, budget: float = BUDGET, **environ: Any) -> int:
    """The app as a server may call it that says nothing of lengths."""
    options = Authenticator(frozenset({APP}), {})
    app = create_app(journal, options, budget=budget)
    whole = {"wsgi.input": BytesIO(body), "wsgi.input_terminated": True} | environ
    statuses: list[str] = []
    target = create_environ(method="POST", query_string=query()) | whole
    target.pop("CONTENT_LENGTH", None)
    b"".join(app(target, lambda status, headers: statuses.append(status)))
    return int(statuses[0].split()[0])


def test_a_body_without_a_declared_length_has_the_same_limit():
    journal = MemoryJournal()
    assert call(journal, b"x" * (MAX_BODY + 1)) == 413
    assert journal.head() == 0
    assert call(journal, b"x" * MAX_BODY) == 400
    assert journal.head() == 1


def test_a_request_that_has_waited_for_too_long_is_not_even_tried():
    journal = MemoryJournal()
    arrived = {ARRIVED: time.monotonic() - 60}
    assert call(journal, CALLBACK, budget=60, **arrived) == 503
    assert journal.head() == 0
    assert call(journal, CALLBACK, budget=600, **arrived) == 200


def test_the_app_waits_for_the_disk_by_itself_and_not_for_ever():
    disk = StallingJournal()
    begun = time.monotonic()
    assert call(disk, CALLBACK, budget=0.5) == 503
    assert time.monotonic() - begun > 0.4
    disk.close()


def test_what_was_acknowledged_is_in_the_journal_file(tmp_path):
    path = tmp_path / "journal.db"
    journal = SqliteWriter(path)
    with gateway(journal) as desk:
        desk.post(RequestID="first").assert_ok()
        reader = SqliteReader(path)
        [entry] = reader.read(0, limit=10)
        assert (entry.body, entry.request_id) == (CALLBACK, "first")
        reader.close()
    journal.close()


def test_a_closed_journal_makes_the_gateway_unready(tmp_path):
    journal = SqliteWriter(tmp_path / "journal.db")
    with gateway(journal) as desk:
        desk.post().assert_ok()
        journal.close()
        desk.post(callback("SessionEnd", NOON)).assert_fail(503)
        desk.ask("GET", "/readyz").assert_fail(503)
        desk.ask("GET", "/livez").assert_ok()


LOGGED: list[tuple[dict[str, Any], int, str, str]] = [
    ({}, 400, "callback_malformed", "the body is not JSON"),
    ({"token": "wrong"}, 403, "callback_refused", "wrong_sign"),
    ({"time": NOW - 61}, 403, "callback_refused", "stale"),
    ({"Sign": None}, 403, "callback_refused", "bad_sign"),
    ({"RequestTime": "s3cret"}, 403, "callback_refused", "bad_request_time"),
    ({"SdkAppid": 7}, 403, "callback_refused", "not_our_app"),
    (
        {"CallbackCommand": "s3cret"},
        400,
        "callback_command_refused",
        "CallbackCommand is not Desk.SessionEventNotify",
    ),
    ({"error": Unavailable("s3cret")}, 503, "callback_not_kept", "Unavailable"),
    ({"error": RuntimeError("s3cret")}, 500, "unexpected_error", "RuntimeError"),
]
"""Requests; their statuses; events and reasons in the log."""


def test_logs_say_what_happened_and_nothing_of_what_was_said():
    secrets = ["t0ken", "s3cret", "203.0.113.9", "r3quest"]
    journal = FailingJournal()
    with (
        capture_logs([Throttle(period=math.inf)]) as logs,
        gateway(journal, tokens={APP: ("t0ken",)}, now=NOW) as desk,
    ):

        def post(token: str = "t0ken", time: int = NOW, error: Any = None, **more: Any) -> int:
            journal.error = error
            signature = sign(token, time)
            secrets.append(signature)
            described = {"ClientIP": "203.0.113.9", "RequestID": "r3quest"}
            given = {"RequestTime": time, "Sign": signature} | described | more
            return desk.post(b'{"s3cret"', **given).status

        statuses = [post(**request) for request, *_ in LOGGED]

    assert statuses == [status for _, status, *_ in LOGGED]
    assert [(line["event"], line.get("reason")) for line in logs] == [
        (event, reason) for *_, event, reason in LOGGED
    ]
    assert logs[2]["age"] == 61
    written = repr(logs)
    assert not [secret for secret in secrets if secret in written]
    assert len(written) < 4000

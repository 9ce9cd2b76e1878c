"""The gateway process: receives callbacks, and appends them to the journal."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from shutil import disk_usage

from command.engines import notice_of, open_writer
from command.notifier import Notifier
from command.processes.child import report_ready
from command.processes.opening import WaitingLog
from command.settings import Settings
from command.signals import on_stop_request
from command.tokens import CallbackTokens
from gateway.app import create_app
from gateway.authentication import Authenticator
from gateway.limits import Limits
from gateway.options import LIVE, READY
from gateway.reporter import start_reporter
from gateway.waitress_server import GreenletEvent, Server
from journal.late import LateWriter
from metrics import definitions as metrics
from metrics import tracing

METRICS = (metrics.GATEWAY, metrics.JOURNAL)

TOKENS_EVERY = 1.0
"""Seconds between two looks at the callback tokens."""


def run(notifier: Notifier, settings: Settings, listener: socket.socket) -> None:
    stop = threading.Event()
    tokens = CallbackTokens(settings)
    on_stop_request(stop.set, reload=tokens.reload)
    journal = LateWriter(
        lambda: open_writer(settings),
        on_open=lambda: report_ready(notifier),
        on_failure=stop.set,
        on_wait=WaitingLog(),
    )
    with closing(journal):
        app = _make_app(journal, settings, tokens, stop)
        server = Server(app, listener, Limits(per_address=settings.http_connections_per_address))
        _when_set(stop, server.stop)
        server.run(notifier.alive)
    if journal.failure:
        raise journal.failure


def _make_app(
    journal: LateWriter, settings: Settings, tokens: CallbackTokens, stop: threading.Event
) -> tracing.WSGI:
    """Make the app on a journal, with its metrics. It follows the tokens until `stop`."""
    authenticator = Authenticator(frozenset(settings.sdk_app_ids), tokens.refresh(time.time()))
    metrics.TOKEN_LAST_USED.read = authenticator.last_used
    metrics.DISK_FREE.read_number(lambda: disk_usage(settings.data_dir).free)
    metrics.DISK_SIZE.read_number(lambda: disk_usage(settings.data_dir).total)
    _follow_tokens(tokens, authenticator, stop)
    start_reporter(authenticator, settings.data_dir)
    path = settings.callback_path
    app = create_app(
        journal,
        authenticator,
        path=path,
        event=GreenletEvent,
        notice=lambda: notice_of(journal.opened),
    )
    return tracing.traced_app(app, path, [LIVE, READY])


def _follow_tokens(
    tokens: CallbackTokens, authenticator: Authenticator, stop: threading.Event
) -> None:
    def follow() -> None:
        while not stop.wait(TOKENS_EVERY):
            authenticator.replace(tokens.refresh(time.time()))

    threading.Thread(target=follow, name="tokens", daemon=True).start()


def _when_set(stop: threading.Event, act: Callable[[], None]) -> None:
    def wait() -> None:
        stop.wait()
        act()

    threading.Thread(target=wait, name="when-set", daemon=True).start()

"""The processes: their entry functions, and the order in which they stop.

An entry function runs in a spawned child and imports what it needs there, so that the gateway does
not load gRPC, nor the service waitress.
"""

import asyncio
import datetime
import gc
import math
import os
import platform
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from shutil import disk_usage
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from setproctitle import setproctitle

from command import logs
from command.address import Address
from command.background import leave
from command.engines import (
    append_forget_entry,
    journal_figures,
    notice_of,
    open_eraser,
    open_object_store,
    open_reader,
    open_snapshots,
    open_stream,
    open_writer,
)
from command.runtime import read_silent
from command.settings import Settings
from command.signals import on_stop_request
from command.supervisor import BEAT, Notifier, ProcessSpec
from command.tokens import CallbackTokens
from command.values import time_zone
from metrics import definitions as metrics
from metrics import tracing
from metrics.endpoint import open_endpoint
from metrics.instruments import Group
from storage.changes import FileProblem

if TYPE_CHECKING:
    from console.protection import Access
    from gateway.authentication import Authenticator
    from journal.late import LateWriter
    from journal.port import JournalReader
    from metrics.tracing import WSGI
    from service.follower import Follower
    from service.rpc.live_board import Centre

OPEN_RETRY = 0.2
"""Seconds between two attempts to open a journal that is not there yet."""

WARN_AFTER = 5.0
"""Seconds of such attempts after which a warning is logged."""

NICE = 10
"""Priority of what nobody waits for, as nice(1) takes it."""

ASIDE = ("console", "gateway", "snapshots")
"""Processes on which the answers of gRPC do not depend."""

TOKENS_EVERY = 1.0
"""Seconds between two looks at the callback tokens."""

log = structlog.get_logger()

T = TypeVar("T")


def gateway_processes(
    settings: Settings, runtime: Path, listener: socket.socket
) -> list[ProcessSpec]:
    """Return the gateway. It stops first, so that all acknowledged callbacks are still served."""
    arguments = (settings, runtime, listener)
    return [ProcessSpec(name="gateway", run=run_gateway, arguments=arguments, stage=0)]


def service_processes(settings: Settings, runtime: Path, address: Address) -> list[ProcessSpec]:
    """Return the follower and the rpc workers, which stop together."""
    both = (settings, runtime)
    workers = [
        ProcessSpec(name=name, run=run_rpc_worker, arguments=(*both, address, name), stage=1)
        for name in (f"rpc-{number}" for number in range(1, settings.rpc_workers + 1))
    ]
    follower = ProcessSpec(name="follower", run=run_follower, arguments=both, stage=1)
    snapshots = ProcessSpec(name="snapshots", run=run_snapshots, arguments=both, stage=1)
    publishes = settings.is_on_nats and settings.snapshot_hours
    return [follower, *workers, *([snapshots] if publishes else [])]


def console_processes(
    settings: Settings,
    runtime: Path,
    listener: socket.socket,
    target: Address,
    access: "Access",
    security: Mapping[str, Any],
) -> list[ProcessSpec]:
    """Return the console of a service at `target`. It stops with the gateway."""
    arguments = (settings, runtime, listener, target, access, security)
    return [ProcessSpec(name="console", run=run_console, arguments=arguments, stage=0)]


def run_gateway(
    notifier: Notifier, settings: Settings, runtime: Path, listener: socket.socket
) -> None:
    """Run the gateway: receive callbacks on `listener`, append them to the journal."""
    with _process(notifier, settings, runtime, "gateway", metrics.GATEWAY, metrics.JOURNAL):
        from gateway.limits import Limits
        from gateway.waitress_server import Server
        from journal.late import LateWriter

        stop = threading.Event()
        tokens = CallbackTokens(settings)
        on_stop_request(stop.set, reload=tokens.reload)
        journal = LateWriter(
            lambda: open_writer(settings),
            on_open=lambda: _report_ready(notifier),
            on_failure=stop.set,
            on_wait=_WaitingLog(),
        )
        with closing(journal):
            app = _gateway_app(journal, settings, tokens, stop)
            limits = Limits(per_address=settings.http_connections_per_address)
            server = Server(app, listener, limits)
            _when_set(stop, server.stop)
            server.run(notifier.alive)
        if journal.failure:
            raise journal.failure


def _gateway_app(
    journal: "LateWriter", settings: Settings, tokens: CallbackTokens, stop: threading.Event
) -> "WSGI":
    """Make the app on a journal, with its metrics. It follows the tokens until `stop`."""
    from gateway.app import create_app
    from gateway.authentication import Authenticator
    from gateway.options import LIVE, READY
    from gateway.reporter import start_reporter
    from gateway.waitress_server import GreenletEvent

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
    tokens: CallbackTokens, authenticator: "Authenticator", stop: threading.Event
) -> None:
    def follow() -> None:
        while not stop.wait(TOKENS_EVERY):
            authenticator.replace(tokens.refresh(time.time()))

    threading.Thread(target=follow, name="tokens", daemon=True).start()


def run_follower(notifier: Notifier, settings: Settings, runtime: Path) -> None:
    """Run the follower: fold the journal into the view."""
    with _process(notifier, settings, runtime, "follower", metrics.FOLLOWER):
        from service.erasure import Erasure
        from service.scrub import Scrub

        stop = threading.Event()
        on_stop_request(stop.set)
        journal = _open_with_retries(lambda: _open_reader_of_damaged(settings), stop, notifier)
        if journal is not None:
            with closing(journal):
                _load_snapshot(journal, settings, stop, notifier)
                work = _open_with_retries(lambda: _make_follower(journal, settings), stop, notifier)
                if work is not None:
                    data_dir = settings.data_dir
                    Erasure(lambda: open_eraser(settings), data_dir, work.note_deleted).start(stop)
                    if settings.scrub_rate:
                        Scrub(journal, settings.data_dir, rate=settings.scrub_rate).start(stop)
                    _start_retention(settings, stop)
                    _report_ready(notifier)
                    work.run(stop, notifier.alive)


def _start_retention(settings: Settings, stop: threading.Event) -> None:
    """Forget from now on what is older than DESK_RETENTION, if that is set."""
    from metrics.report import RetentionReport, discard
    from service.retention import Retention

    if settings.retention is None:
        discard(settings.data_dir, RetentionReport)
        return
    Retention(
        settings.data_dir,
        partial(append_forget_entry, settings),
        open_object_store(settings).claim if settings.is_on_nats else lambda _: True,
        keep=settings.retention,
        at=datetime.time.fromisoformat(settings.retention_at),
    ).start(stop)


def _load_snapshot(
    journal: "JournalReader", settings: Settings, stop: threading.Event, notifier: Notifier
) -> None:
    """Put a snapshot of the view in place, if there is one and no view."""
    from journal.errors import Unavailable

    if settings.is_on_nats:
        _open_with_retries(lambda: _refuse_during_build(settings), stop, notifier)
        try:
            with closing(open_snapshots(settings, journal, settings.data_dir)) as snapshots:
                _with_signs(notifier, lambda: snapshots.load(stop))
        except Unavailable as problem:
            log.warning("snapshots_not_found", reason=str(problem))


def run_snapshots(notifier: Notifier, settings: Settings, runtime: Path) -> None:
    """Publish a snapshot of the view now and then, apart from the processes that are in a hurry."""
    with (
        _process(notifier, settings, runtime, "snapshots", metrics.SNAPSHOTS),
        ExitStack() as opened,
    ):
        os.nice(NICE)
        stop = threading.Event()
        on_stop_request(stop.set)
        journal = _open_with_retries(lambda: open_stream(settings), stop, notifier)
        if journal is not None:
            opened.enter_context(closing(journal))
            snapshots = _open_with_retries(
                lambda: open_snapshots(settings, journal, settings.data_dir), stop, notifier
            )
            if snapshots is not None:
                opened.enter_context(closing(snapshots))
                _report_ready(notifier)
                hours = settings.snapshot_hours
                _with_signs(notifier, lambda: snapshots.keep_published(stop, hours))


def _with_signs(notifier: Notifier, work: Callable[[], None]) -> None:
    """Run `work` in a thread, and give signs of life: it reads files of any size."""
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(work)
        while not future.done():
            wait([future], BEAT)
            notifier.alive()
        future.result()


def run_rpc_worker(
    notifier: Notifier, settings: Settings, runtime: Path, address: Address, name: str
) -> None:
    """Run one rpc worker: answer gRPC from the view."""
    with _process(notifier, settings, runtime, name, metrics.RPC):
        asyncio.run(_serve(notifier, settings, runtime, address, name))


async def _serve(
    notifier: Notifier, settings: Settings, runtime: Path, address: Address, name: str
) -> None:
    from service.clients import follow_clients
    from service.rpc.limits import Limits
    from service.rpc.server import serve
    from service.rpc.tls import Tls
    from service.view.store import locate

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    files = settings.certificate_files()
    tls = Tls(files) if files else None
    clients = follow_clients(settings.clients_file) if settings.clients_file else None

    def reload() -> None:
        for each in (tls, clients):
            if each:
                each.reload()

    on_stop_request(lambda: _set(loop, stop), reload=reload)
    beat = asyncio.create_task(_give_signs(notifier))
    backlog, size = journal_figures(settings)
    await serve(
        locate(settings.data_dir),
        str(address),
        sdk_app_ids=settings.sdk_app_ids,
        journal_backlog=backlog,
        journal_size=size,
        silent_processes=lambda: silent_of_service(runtime),
        forget=partial(append_forget_entry, settings),
        stop=stop,
        on_ready=lambda _: _report_ready(notifier),
        worker=name,
        workers=settings.rpc_workers,
        tls=tls,
        clients=clients,
        centre=_centre(settings),
        limits=Limits(lag_seconds=settings.max_lag or math.inf),
    )
    beat.cancel()


def run_console(
    notifier: Notifier,
    settings: Settings,
    runtime: Path,
    listener: socket.socket,
    target: Address,
    access: "Access",
    security: Mapping[str, Any],
) -> None:
    """Run the console: show in a browser what the service at `target` answers."""
    with _process(notifier, settings, runtime, "console"):
        asyncio.run(_serve_console(notifier, settings, listener, target, access, security))


async def _serve_console(
    notifier: Notifier,
    settings: Settings,
    listener: socket.socket,
    target: Address,
    access: "Access",
    security: Mapping[str, Any],
) -> None:
    from console.server import serve
    from desk.client import Client

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    on_stop_request(lambda: _set(loop, stop))
    beat = asyncio.create_task(_give_signs(notifier))
    await serve(
        listener,
        str(target),
        connect=lambda each: Client(each, **security),
        access=access,
        zone=time_zone(settings.time_zone),
        settings=settings.described(),
        stop=stop,
        on_ready=lambda: _report_ready(notifier),
    )
    beat.cancel()


def _centre(settings: Settings) -> "Centre":
    from service.rpc.live_board import Centre
    from service.tally import Thresholds

    percent, seconds = settings.service_level
    thresholds = Thresholds(percent, seconds * 1000, settings.short_abandon * 1000)
    return Centre(time_zone(settings.time_zone), settings.time_zone, thresholds)


def silent_of_service(runtime: Path) -> list[str]:
    """Return the processes without a sign of life for which health is NOT_SERVING."""
    return [name for name in read_silent(runtime) if name not in ASIDE]


async def _give_signs(notifier: Notifier) -> None:
    while True:
        notifier.alive()
        await asyncio.sleep(BEAT)


def _report_ready(notifier: Notifier) -> None:
    """Report that the process is ready, and exempt its present objects from garbage collection.

    A collection that walks through all of them would stall the process, and its answers.
    """
    gc.unfreeze()  # after an earlier report: objects of that time may be garbage by now
    gc.collect()
    gc.freeze()
    notifier.ready()


def _set(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(stop.set)


def _when_set(stop: threading.Event, act: Callable[[], None]) -> None:
    def wait() -> None:
        stop.wait()
        act()

    threading.Thread(target=wait, name="when-set", daemon=True).start()


def _open_reader_of_damaged(settings: Settings) -> "JournalReader":
    """Open the journal for the follower, which waits for a damaged one to be mended."""
    from journal.errors import Damaged, Unavailable

    try:
        return open_reader(settings)
    except Damaged as error:
        raise Unavailable(str(error)) from error


def _make_follower(journal: "JournalReader", settings: Settings) -> "Follower":
    """Open the view for writing. A disk may do better later, and a build will end."""
    from journal.errors import Unavailable
    from service.follower import Follower
    from service.view.errors import ViewError, ViewUnavailable

    _refuse_during_build(settings)
    try:
        # A restored file has a new id. Nobody replaces a stream, but by mistake.
        return Follower(journal, settings.data_dir, may_start_over=not settings.is_on_nats)
    except ViewUnavailable:
        raise
    except (ViewError, OSError) as error:
        raise Unavailable(f"the view cannot be opened: {error}") from error


def _refuse_during_build(settings: Settings) -> None:
    from journal.errors import Unavailable
    from service.view.writer import is_being_built

    if is_being_built(settings.data_dir):
        raise Unavailable("desk view build is making the view")


def _open_with_retries(
    open_: Callable[[], T], stop: threading.Event, notifier: Notifier
) -> T | None:
    """Open the journal as soon as that is possible. Return None after a request to stop."""
    from journal.errors import Unavailable

    note = _WaitingLog()
    while not stop.is_set():
        try:
            return open_()
        except Unavailable as reason:
            notifier.alive()
            note(str(reason))
            stop.wait(OPEN_RETRY)
    return None


@cache
def _build_info(role: str) -> dict[tuple[str, ...], float]:
    import apsw

    fingerprint = ""
    if role != "gateway":  # which does not load the messages of the API
        from service.view import store

        fingerprint = store.fingerprint()
    versions = version("desk-sessions"), platform.python_version(), version("grpcio")
    return {(*versions, apsw.sqlite_lib_version(), fingerprint): 1}


class _WaitingLog:
    """Logs why the journal cannot be opened: once at the beginning, once after `WARN_AFTER`."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._lines = [(0.0, log.info), (WARN_AFTER, log.warning)]

    def __call__(self, reason: str) -> None:
        if self._lines and time.monotonic() - self._since >= self._lines[0][0]:
            self._lines.pop(0)[1]("waiting_for_journal", reason=reason)


@contextmanager
def _process(
    notifier: Notifier, settings: Settings, runtime: Path, role: str, *groups: Group
) -> Iterator[None]:
    """Configure log and metrics. Report an error to the supervisor, and exit."""
    from journal.errors import JournalError, Unavailable

    setproctitle(f"desk: {role}")
    logs.configure(settings, role)
    metrics.BUILD_INFO.read = lambda: _build_info(role)
    open_endpoint(runtime, role, *groups)
    code = 1
    try:
        with tracing.sending(role):
            yield
        code = 0
    except (Unavailable, FileProblem) as error:
        notifier.trouble(str(error))
    except JournalError as error:
        notifier.failed(str(error))
    except Exception as error:
        log.exception("process_failed")
        notifier.trouble(f"{type(error).__name__}: {error}")
    leave(code)

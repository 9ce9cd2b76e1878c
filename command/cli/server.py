"""The commands that run the processes: serve, gateway and service."""

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from socket import socket
from tempfile import TemporaryFile
from typing import NoReturn, TypeVar

import click
import structlog
from setproctitle import setproctitle

from command import logs
from command.address import Address
from command.background import leave, text_output
from command.cli.guide import getting_started
from command.cli.owner import require_owner
from command.descriptors import FEW_FILES, RESERVED_FILES, raise_limit, required_limit
from command.processes import console_processes, gateway_processes, service_processes
from command.runtime import runtime_folder, write_silent
from command.settings import Settings, TrialSettings
from command.settings_console import ConsoleError, client_security
from command.settings_errors import SettingsError
from command.settings_warnings import warnings_of
from command.sockets import CannotListen, bound_address, listen, listen_or_inherit, reserve
from command.supervised import ProcessSpec
from command.supervisor import Supervisor
from metrics import tracing
from metrics.page import serve_page

AnySettings = TypeVar("AnySettings", bound=Settings)

STOPPING = """\
\b
SIGTERM or Ctrl-C stops it in order, within 10 s; a second Ctrl-C stops it at once. SIGHUP reads
tokens, clients and certificates again.
Exit codes: 0 = stopped by a signal, 1 = failed or had to be killed, 2 = wrong settings.
"""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk that may have room later: the processes wait for that."""

log = structlog.get_logger()


@click.command(epilog=STOPPING)
def serve() -> None:
    """Run gateway, service and console on this machine, with the journal in DESK_DATA_DIR."""
    settings = _load(TrialSettings)
    if settings.is_trial:
        app = settings.sdk_app_ids[0]
        click.echo(f"desk: DESK_SDK_APP_IDS is not set: using the sample app {app}", err=True)
    with (
        closing(_bind("DESK_HTTP_LISTEN", listen_or_inherit, settings.http_listen)) as listener,
        closing(_bind("DESK_GRPC_LISTEN", reserve, settings.grpc_listen)) as reserved,
        _metrics(settings) as (runtime, metrics),
    ):
        http, grpc = bound_address(listener), bound_address(reserved)
        console, shown_at = _console(settings, runtime, grpc.from_here())
        _run(
            settings,
            runtime,
            [
                *gateway_processes(settings, runtime, listener),
                *service_processes(settings, runtime, grpc),
                *console,
            ],
            on_ready=lambda: _announce_all(settings, http, grpc, metrics, shown_at),
            listener=listener,
        )


@click.command(epilog=STOPPING)
def gateway() -> None:
    """Run the gateway: receive callbacks on DESK_HTTP_LISTEN, append them to the journal."""
    settings = _load(Settings)
    with (
        closing(_bind("DESK_HTTP_LISTEN", listen_or_inherit, settings.http_listen)) as listener,
        _metrics(settings) as (runtime, metrics),
    ):
        address = bound_address(listener)
        _run(
            settings,
            runtime,
            gateway_processes(settings, runtime, listener),
            on_ready=lambda: log.info("ready", http=str(address), metrics=metrics),
            listener=listener,
        )


@click.command(epilog=STOPPING)
def service() -> None:
    """Run the service: follow the journal in DESK_DATA_DIR, answer gRPC on DESK_GRPC_LISTEN."""
    settings = _load(Settings)
    with (
        closing(_bind("DESK_GRPC_LISTEN", reserve, settings.grpc_listen)) as reserved,
        _metrics(settings) as (runtime, metrics),
    ):
        address = bound_address(reserved)
        _run(
            settings,
            runtime,
            service_processes(settings, runtime, address),
            on_ready=lambda: log.info("ready", grpc=str(address), metrics=metrics),
        )


def _load(kind: type[AnySettings]) -> AnySettings:
    limit = raise_limit()
    try:
        settings = kind.load()
    except SettingsError as error:
        _refuse(*error.problems)
    required = required_limit(children=settings.rpc_workers + 3)
    if limit < required:
        _refuse(f"ulimit -n allows {limit} open files; at least {required} are needed")
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        TemporaryFile(dir=settings.data_dir).close()
    except OSError as error:
        if error.errno not in FULL:
            _refuse(f"DESK_DATA_DIR {settings.data_dir} cannot be written to: {error.strerror}")
    require_owner(settings.data_dir)
    setproctitle("desk: supervisor")
    logs.configure(settings, "supervisor")
    return settings


def _run(
    settings: Settings,
    runtime: Path,
    processes: list[ProcessSpec],
    on_ready: Callable[[], None],
    listener: socket | None = None,
) -> NoReturn:
    """Run processes until a signal. `listener` is the gateway's: it is closed at once."""
    supervisor = Supervisor(
        processes,
        on_ready=on_ready,
        on_stop=listener.close if listener else lambda: None,
        on_silent=partial(write_silent, runtime),
        hang_timeout=settings.hang_timeout,
    )
    for warning in warnings_of(settings, gateway=listener is not None):
        log.warning("setting_doubtful", problem=warning)
    if reason := tracing.problem():
        log.warning("not_traced", reason=reason)
    if (limit := raise_limit()) < FEW_FILES:
        log.warning("few_open_files", limit=limit, connections_each_about=limit - RESERVED_FILES)
    code = supervisor.run()
    if supervisor.failure:
        click.echo(f"desk: {supervisor.failure}", err=True)
    leave(code)


def _refuse(*problems: str) -> NoReturn:
    for problem in problems:
        click.echo(f"desk: {problem}", err=True)
    sys.exit(2)


def _bind(variable: str, bind: Callable[[Address], socket], address: Address) -> socket:
    try:
        return bind(address)
    except CannotListen as error:
        _refuse(f"{variable}: {error}")


@contextmanager
def _metrics(settings: Settings) -> Iterator[tuple[Path, str]]:
    """Serve the page of metrics. Yield the runtime folder, and the page's address ("": none)."""
    with runtime_folder() as runtime:
        address = ""
        if settings.metrics_listen:
            try:
                listener = listen(settings.metrics_listen)
            except CannotListen as error:  # another service of this machine may have the default
                log.warning("metrics_not_served", reason=f"DESK_METRICS_LISTEN: {error}")
            else:
                serve_page(listener, runtime)
                address = str(bound_address(listener))
        yield runtime, address


def _console(
    settings: Settings, runtime: Path, target: Address
) -> tuple[list[ProcessSpec], Address | None]:
    """Return the console's process and its address, if there is one."""
    if not settings.console_listen:
        return [], None
    try:
        access = settings.console_access(settings.console_listen)
        client_security()  # a mistake in it is a line here
    except ConsoleError as error:
        _refuse(str(error))
    try:
        listener = listen(settings.console_listen)
    except CannotListen as error:  # another service of this machine may have the default
        log.warning("console_not_shown", reason=f"DESK_CONSOLE_LISTEN: {error}")
        return [], None
    processes = console_processes(settings, runtime, listener, target, access)
    return processes, bound_address(listener)


def _announce_all(
    settings: Settings, http: Address, grpc: Address, metrics: str, console: Address | None
) -> None:
    shown_at = str(console) if console else ""
    log.info("ready", http=str(http), grpc=str(grpc), metrics=metrics, console=shown_at)
    if sys.stdout and sys.stdout.isatty():  # None if it was closed
        guide = getting_started(settings, http, grpc, console)
        click.echo(guide, file=text_output(sys.stdout.fileno()))

"""The commands that run the service: they compose the processes and nothing else."""

import sys
from collections.abc import Callable
from contextlib import closing
from socket import socket
from tempfile import TemporaryFile
from typing import NoReturn, TypeVar

import click
import structlog

from command import logs
from command.address import Address
from command.background import text_output
from command.cli.guide import what_to_try
from command.descriptors import ENOUGH, RESERVED, least_limit, raise_limit
from command.processes import gateway_parts, service_parts
from command.settings import Settings, SettingsError, TrialSettings
from command.sockets import CannotListen, bound_address, listen, reserve
from command.supervisor import Supervisor

AnySettings = TypeVar("AnySettings", bound=Settings)

STOPPING = """\
\b
SIGTERM or Ctrl-C stops it in order, within 10 s; a second Ctrl-C at once.
Exit codes: 0 = stopped as told, 1 = failed or had to be killed, 2 = wrong settings.
"""

log = structlog.get_logger()


@click.command(epilog=STOPPING)
def serve() -> None:
    """Run gateway and service on this machine, with the journal in DESK_DATA_DIR."""
    settings = _load(TrialSettings)
    if settings.is_trial:
        app = settings.sdk_app_ids[0]
        click.echo(f"desk: DESK_SDK_APP_IDS is not set: taking the sample app {app}", err=True)
    with (
        closing(_bind("DESK_HTTP_LISTEN", listen, settings.http_listen)) as listener,
        closing(_bind("DESK_GRPC_LISTEN", reserve, settings.grpc_listen)) as reserved,
    ):
        http, grpc = bound_address(listener), bound_address(reserved)
        supervisor = Supervisor(
            [*gateway_parts(settings, listener), *service_parts(settings, grpc)],
            on_ready=lambda: _announce_all(settings, http, grpc),
            on_stop=listener.close,
        )
        _run(settings, supervisor)


@click.command(epilog=STOPPING)
def gateway() -> None:
    """Run the gateway: take Desk's callbacks on DESK_HTTP_LISTEN, append them to the journal."""
    settings = _load(Settings)
    with closing(_bind("DESK_HTTP_LISTEN", listen, settings.http_listen)) as listener:
        address = bound_address(listener)
        supervisor = Supervisor(
            gateway_parts(settings, listener),
            on_ready=lambda: log.info("ready", http=str(address)),
            on_stop=listener.close,
        )
        _run(settings, supervisor)


@click.command(epilog=STOPPING)
def service() -> None:
    """Run the service: follow the journal in DESK_DATA_DIR, answer gRPC on DESK_GRPC_LISTEN."""
    settings = _load(Settings)
    with closing(_bind("DESK_GRPC_LISTEN", reserve, settings.grpc_listen)) as reserved:
        address = bound_address(reserved)
        supervisor = Supervisor(
            service_parts(settings, address), on_ready=lambda: log.info("ready", grpc=str(address))
        )
        _run(settings, supervisor)


def _load(kind: type[AnySettings]) -> AnySettings:
    limit = raise_limit()
    try:
        settings = kind.load()
    except SettingsError as error:
        _refuse(*error.problems)
    least = least_limit(children=settings.rpc_workers + 2)
    if limit < least:
        _refuse(f"ulimit -n allows {limit} open files, and {least} are the least that it takes")
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        TemporaryFile(dir=settings.data_dir).close()
    except OSError as error:
        _refuse(f"DESK_DATA_DIR {settings.data_dir} cannot be written to: {error.strerror}")
    logs.configure(settings, "supervisor")
    return settings


def _run(settings: Settings, supervisor: Supervisor) -> NoReturn:
    for warning in settings.warnings():
        log.warning("setting_doubtful", problem=warning)
    if (limit := raise_limit()) < ENOUGH:
        log.warning("few_open_files", limit=limit, connections_each_about=limit - RESERVED)
    code = supervisor.run()
    if supervisor.failure:
        click.echo(f"desk: {supervisor.failure}", err=True)
    sys.exit(code)


def _refuse(*problems: str) -> NoReturn:
    for problem in problems:
        click.echo(f"desk: {problem}", err=True)
    sys.exit(2)


def _bind(variable: str, how: Callable[[Address], socket], address: Address) -> socket:
    try:
        return how(address)
    except CannotListen as error:
        _refuse(f"{variable}: {error}")


def _announce_all(settings: Settings, http: Address, grpc: Address) -> None:
    log.info("ready", http=str(http), grpc=str(grpc))
    if sys.stdout:  # the processes work all the same if nobody can or does read it
        click.echo(what_to_try(settings, http, grpc), file=text_output(sys.stdout.fileno()))

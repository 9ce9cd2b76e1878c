"""The command that runs the console apart from the service."""

import asyncio
import signal
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from command import logs
from command.address import DEFAULT_CONSOLE, Address
from command.cli.connection import connect, security_target
from command.cli.parameters import Parsed, current_zone, time_zone_option_of
from command.descriptors import raise_limit
from command.runtime import runtime_folder
from command.settings_console import DEFAULT_PROXIES, ConsoleError, access_to, read_passwords
from command.sockets import CannotListen, bound_address, listen
from metrics.endpoint import open_endpoint
from metrics.page import serve_page

LISTEN = Parsed("host:port", Address.parse)


@click.command()
@click.option(
    "--listen",
    "address",
    type=LISTEN,
    envvar="DESK_CONSOLE_LISTEN",
    default=str(DEFAULT_CONSOLE),
    show_default=True,
    show_envvar=True,
    help="Address of the console.",
)
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="DESK_CONSOLE_PASSWORD_FILE",
    show_envvar=True,
    help="File with a user:password on each line; browsers ask for one (HTTP basic).",
)
@click.option(
    "--user-header",
    envvar="DESK_CONSOLE_USER_HEADER",
    default="",
    show_envvar=True,
    help="Header in which a proxy that signs users in names them, such as X-Forwarded-User.",
)
@click.option(
    "--proxy",
    "proxies",
    envvar="DESK_CONSOLE_PROXIES",
    default=DEFAULT_PROXIES,
    show_default=True,
    show_envvar=True,
    help="Addresses or networks of such proxies, with commas between them.",
)
@click.option(
    "--metrics-listen",
    "metrics_address",
    type=LISTEN,
    envvar="DESK_METRICS_LISTEN",
    show_envvar=True,
    help="Address of the page of metrics; none by default.",
)
@time_zone_option_of("DESK_TIME_ZONE", "TZ")
@security_target
def console(
    *,
    address: Address,
    password_file: Path | None,
    user_header: str,
    proxies: str,
    metrics_address: Address | None,
    target: str,
    security: dict[str, Any],
) -> None:
    """Show the board, sessions, rejections, reports and health in a browser.

    It asks the service at --target, with the key in --key-file: that key decides what it may show.
    On another address than loopback it needs --password-file or --user-header.

    SIGTERM or Ctrl-C stops it. Exit codes: 0 = stopped by a signal, 2 = wrong options.
    """
    from console.server import serve

    try:
        passwords = read_passwords(password_file) if password_file else {}
        access = access_to(address, passwords, user_header, proxies)
        listener = listen(address)
    except (ConsoleError, CannotListen) as error:
        raise click.UsageError(str(error)) from None
    logs.configure(logs.LogOptions(), "console")
    raise_limit()
    with closing(listener), runtime_folder() as runtime:
        if metrics_address:
            _serve_metrics(metrics_address, runtime)
        url = f"http://{bound_address(listener).from_here()}"

        async def run() -> None:
            stop = asyncio.Event()
            for signum in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(signum, stop.set)
            await serve(
                listener,
                target,
                connect=partial(connect, security=security),
                access=access,
                zone=current_zone(),
                settings=_settings(),
                settings_of="desk console; gateway and service have their own",
                stop=stop,
                on_ready=lambda: click.echo(f"console: {url}"),
            )

        asyncio.run(run())


_SOURCES: Mapping[ParameterSource | None, str] = {
    ParameterSource.COMMANDLINE: "command line",
    ParameterSource.ENVIRONMENT: "environment",
}


def _settings() -> list[dict[str, str]]:
    """Return the variable of each option, its value and its source. No value is a secret."""
    context = click.get_current_context()
    values = {**context.params, "time_zone": current_zone()}
    return [
        {
            "name": option.envvar if isinstance(option.envvar, str) else option.envvar[0],
            "value": str(values.get(option.name) or ""),
            "source": _source(option, context.get_parameter_source(option.name)),
        }
        for option in context.command.params
        if option.envvar and option.name
    ]


def _source(option: click.Parameter, source: ParameterSource | None) -> str:
    """Return where a value is from; of a default that is looked up, the places."""
    looked_up = getattr(option, "show_default", None)
    default = looked_up if isinstance(looked_up, str) else "default"
    return _SOURCES.get(source, default)


def _serve_metrics(address: Address, runtime: Path) -> None:
    """Serve the page of this process. If the address is in use, warn and go on."""
    try:
        listener = listen(address)
    except CannotListen as error:
        click.echo(f"desk: metrics are not served: {error}", err=True)
        return
    open_endpoint(runtime, "console")
    serve_page(listener, runtime)

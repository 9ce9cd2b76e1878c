"""`desk health`: the health check of a container, which has neither curl nor grpcurl."""

import http.client
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn
from urllib.parse import urlsplit

import click

from command.address import Address
from command.cli import Group, error_text, usage_errors
from command.cli.health_call import is_serving
from command.client_security import security_options
from command.endpoints import console_address, gateway_address, service_address

_timeout = click.option(
    "--timeout",
    type=click.FloatRange(0.1, 60),
    default=2.0,
    show_default=True,
    help="Seconds to wait for the answer.",
)


@click.group(
    cls=Group, epilog="Exit codes: 0 = ready, 1 = not ready or not reachable, 2 = wrong usage."
)
def health() -> None:
    """Exit with 0 if a process is ready, with 1 if not."""


@health.command("gateway")
@click.argument("url", default="")
@_timeout
def gateway_health(url: str, timeout: float) -> None:
    """Ask the gateway at URL, by default http://DESK_HTTP_LISTEN/readyz."""
    _ask_by_http(url or f"http://{_listening(gateway_address)}", "/readyz", timeout)


@health.command("console")
@click.argument("url", default="")
@_timeout
def console_health(url: str, timeout: float) -> None:
    """Ask the console at URL, by default http://DESK_CONSOLE_LISTEN/livez."""
    _ask_by_http(url or f"http://{_listening(console_address)}", "/livez", timeout)


@health.command("service")
@click.argument("target", default="")
@_timeout
@security_options
def service_health(target: str, timeout: float, security: dict[str, Any]) -> None:
    """Ask the service at TARGET, host:port, by default DESK_GRPC_LISTEN."""
    target = target or _listening(service_address)
    try:
        serving = _is_serving(target, timeout, security)
    except OSError as error:
        _not_ready(f"{target}: {error_text(error)}")
    if not serving:
        _not_ready(f"{target}: not serving")


def _ask_by_http(url: str, path: str, timeout: float) -> None:
    """Exit with 1 unless the answer is 200; `path` is for a URL that has none."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise click.UsageError("URL must be http://host:port/path")
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    try:
        connection.request("GET", parts.path or path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        _not_ready(f"{parts.netloc}: {error_text(error)}")
    if status != http.client.OK:
        _not_ready(f"{parts.netloc}: HTTP status {status}")


def _is_serving(target: str, timeout: float, security: dict[str, Any]) -> bool:
    if not security["credentials"]:
        with suppress(ValueError):  # another form of a target, which gRPC knows
            return is_serving(Address.parse(target), timeout)
    return _ask_by_grpc(target, timeout, security)


def _ask_by_grpc(target: str, timeout: float, security: dict[str, Any]) -> bool:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    # Not through http_proxy: the service is on this machine.
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
    if security["server_name"]:
        options.append(("grpc.ssl_target_name_override", security["server_name"]))
    credentials = security["credentials"]
    with (
        grpc.secure_channel(target, credentials, options=options)
        if credentials
        else grpc.insecure_channel(target, options=options)
    ) as channel:
        try:
            check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
            answer = check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError as error:
            raise OSError(error.code().name) from None
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _listening(address: Callable[[], Address]) -> str:
    with usage_errors():
        return str(address())


def _not_ready(reason: str) -> NoReturn:
    click.echo(f"desk: not ready: {reason}", err=True)
    sys.exit(1)

"""The connection of a command to the service, and the messages and exit codes of its failures."""

import asyncio
import functools
import signal
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import IO, Any

import click

from command.address import DEFAULT_GRPC
from command.cli import usage_errors
from command.client_security import security_options
from command.endpoints import service_address
from desk.client import (
    Client,
    ClientError,
    Denied,
    InvalidRequest,
    JournalMismatch,
    PreconditionFailed,
    TimedOut,
    Unavailable,
    targets_of,
)

FAILED, USAGE, UNREACHABLE, TOO_LATE = 1, 2, 3, 4
"""Exit codes; `desk --help` explains them."""

_EXIT_CODES: dict[type[ClientError], int] = {
    JournalMismatch: FAILED,
    InvalidRequest: USAGE,
    PreconditionFailed: USAGE,
    Unavailable: UNREACHABLE,
    TimedOut: TOO_LATE,
}

_CAUSES = {
    "WRONG_VERSION_NUMBER": "it does not use TLS: leave out --tls-ca",
    "CERTIFICATE_VERIFY_FAILED": "no authority in --tls-ca has signed its certificate",
    "Hostname Verification": "its certificate has another name: see --tls-name",
    "Socket closed": "it closed the connection; if it uses TLS, pass --tls-ca",
}
"""Causes that gRPC states in words of its own, by a part of these."""

_HINTS = {"SDK_APP_ID_REQUIRED": "pass --app", "UNAUTHENTICATED": "see --key-file"}
"""Options that help, by the service's reason."""

MAX_MESSAGE = 300
"""Characters of an error message, which is always one line."""


class CallFailed(click.ClickException):
    """A call failed. The message is one line."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click intends it to be replaced

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"desk: {self.message}", file=file, err=True)


def client_command(coroutine: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Turn a coroutine that takes a client into a command with the options of a connection."""

    @functools.wraps(coroutine)
    def command(target: str, timeout: float, security: dict[str, Any], **options: Any) -> None:
        asyncio.run(_run(coroutine, target, timeout, security, options))

    return _target(_timeout(security_options(command)))


def replicas_command(coroutine: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Turn a coroutine that takes a dict of a client for each target into a command.

    With one target the command fails as other commands do.
    """

    @functools.wraps(coroutine)
    def command(target: str, timeout: float, security: dict[str, Any], **options: Any) -> None:
        async def run() -> None:
            async with AsyncExitStack() as stack:
                clients = {
                    each: await stack.enter_async_context(connect(each, security, timeout=timeout))
                    for each in targets_of(target)
                }
                await coroutine(clients, **options)

        try:
            asyncio.run(run())
        except ClientError as error:
            raise _call_failed(error, target) from None

    return _target(_timeout(security_options(command)))


def security_target(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a connection; the command takes them as `target` and `security`."""
    return _target(security_options(command))


async def require_service(client: Client) -> None:
    """Raise an error if the service cannot be reached. A connection that is lost later is none."""
    with suppress(Denied):
        await client.status()


def end_at_sigterm() -> None:
    """Cancel the present task at SIGTERM, as Ctrl-C does."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


async def _run(
    coroutine: Callable[..., Coroutine[Any, Any, None]],
    target: str,
    timeout: float,  # noqa: ASYNC109 (becomes the calls' deadline)
    security: dict[str, Any],
    options: dict[str, Any],
) -> None:
    try:
        async with connect(target, security, timeout=timeout) as client:
            await coroutine(client, **options)
    except ClientError as error:
        raise _call_failed(error, target) from None


def _call_failed(error: ClientError, target: str) -> CallFailed:
    """Return the message and the exit code for a failed call."""
    codes = (code for kind, code in _EXIT_CODES.items() if isinstance(error, kind))
    return CallFailed(failure_text(error, target), next(codes, FAILED))


def connect(target: str, security: dict[str, Any], **options: Any) -> Client:
    """Make a client; `security` comes from the options."""
    if not target or target.startswith(("http:", "https:")):
        raise click.UsageError(f"{target!r} is not the host:port of a service")
    try:
        return Client(target, **security, **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def failure_text(error: ClientError, target: str) -> str:
    """Return one line about a call that failed, with the option that may help."""
    detail = error.detail
    if isinstance(error, Unavailable) and not error.reason:
        detail = f"cannot reach {target}: {_cause(detail)}"
    if isinstance(error, TimedOut) and not error.reason:
        detail = f"{target} did not answer in time"
    fields = [f"{name}: {text}" for name, text in error.fields.items() if text not in detail]
    hints = [_HINTS[error.reason]] if error.reason in _HINTS else []
    status = ", ".join(dict.fromkeys(filter(None, (error.code.name, error.reason))))
    return f"{_one_line('; '.join([detail, *fields, *hints]))} ({status})"


def _cause(detail: str) -> str:
    """Return why a service cannot be reached, from the words of gRPC."""
    causes = (cause for sign, cause in _CAUSES.items() if sign in detail)
    return next(causes, detail.rpartition(": ")[2].rstrip("]"))


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"


def _service() -> str:
    with usage_errors():
        return str(service_address())


_target = click.option(
    "--target",
    envvar="DESK_TARGET",
    default=_service,
    show_default=f"DESK_GRPC_LISTEN, also from .env, or {DEFAULT_GRPC}",
    show_envvar=True,
    help="Address of the service, host:port. Several, with commas between them, are replicas.",
)

_timeout = click.option(
    "--timeout",
    type=click.FloatRange(min=0.001),
    default=10.0,
    show_default=True,
    help="Seconds that one call may take.",
)

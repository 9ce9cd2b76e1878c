"""How commands reach the service, and what they say when that fails."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import IO, Any

import click
from desk.client import (
    Client,
    ClientError,
    InvalidRequest,
    JournalMismatch,
    PreconditionFailed,
    TimedOut,
    Unavailable,
)

from command.cli import error_text
from command.endpoints import GRPC, service_address

FAILED, USAGE, UNREACHABLE, TOO_LATE = 1, 2, 3, 4
"""Exit codes; `desk --help` explains them."""

_EXIT_CODES: dict[type[ClientError], int] = {
    JournalMismatch: FAILED,
    InvalidRequest: USAGE,
    PreconditionFailed: USAGE,
    Unavailable: UNREACHABLE,
    TimedOut: TOO_LATE,
}

MAX_MESSAGE = 300
"""Characters of an error message: one line, whatever the other side says."""


class CallFailed(click.ClickException):
    """The service did not do what it was asked for; one line says why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click means it to be replaced

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line to stderr."""
        click.echo(f"desk: {self.message}", file=file, err=True)


def asks(question: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a command of a coroutine: adds --target and --timeout, passes a `Client`."""

    @functools.wraps(question)
    def command(target: str, timeout: float, **given: Any) -> None:
        asyncio.run(_ask(question, target, timeout, given))

    return _target(_timeout(command))


async def _ask(
    question: Callable[..., Coroutine[Any, Any, None]],
    target: str,
    timeout: float,  # noqa: ASYNC109 (becomes the calls' deadline)
    given: dict[str, Any],
) -> None:
    try:
        async with Client(target, timeout=timeout) as client:
            await question(client, **given)
    except ClientError as error:
        raise explained(error, target) from None


def explained(error: ClientError, target: str) -> CallFailed:
    """Say in one line what a failed call means."""
    detail = error.detail
    if isinstance(error, Unavailable) and not error.reason:
        detail = f"cannot reach {target}: {detail.rpartition(': ')[2].rstrip(']')}"
    if isinstance(error, TimedOut) and not error.reason:
        detail = f"{target} did not answer in time"
    fields = [f"{name}: {what}" for name, what in error.fields.items() if what not in detail]
    named = f"{error.code.name}, {error.reason}" if error.reason else error.code.name
    codes = (code for kind, code in _EXIT_CODES.items() if isinstance(error, kind))
    return CallFailed(f"{_one_line('; '.join([detail, *fields]))} ({named})", next(codes, FAILED))


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"


def _service() -> str:
    try:
        return str(service_address())
    except (OSError, ValueError) as error:
        raise click.UsageError(error_text(error)) from None


_target = click.option(
    "--target",
    envvar="DESK_TARGET",
    default=_service,
    show_default=f"DESK_GRPC_LISTEN, also from .env, or {GRPC}",
    show_envvar=True,
    help="Where the service listens, host:port.",
)

_timeout = click.option(
    "--timeout",
    type=click.FloatRange(min=0.001),
    default=10.0,
    show_default=True,
    help="Seconds that one call may take.",
)

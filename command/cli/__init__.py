"""The `desk` command. It imports a subcommand's module only when that subcommand runs."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn, cast

import click

COMMANDS = {
    "serve": ("command.cli.server:serve", "Run gateway, service and console on this machine."),
    "gateway": ("command.cli.server:gateway", "Run the gateway: callbacks by HTTP to the journal."),
    "service": ("command.cli.server:service", "Run the service: the journal's sessions by gRPC."),
    "simulate": ("command.cli.simulate:simulate", "Send simulated callbacks as Desk would."),
    "sessions": (
        "command.cli.sessions:sessions",
        "List, get, count, explain or wait for sessions.",
    ),
    "rejections": (
        "command.cli.rejections:rejections",
        "List the rejected callbacks with their reasons.",
    ),
    "board": ("command.cli.board:board", "Show who waits now, and the service of today."),
    "report": ("command.cli.report:report", "Show the figures of a time, by hour or agent."),
    "watch": ("command.cli.watch:watch", "Follow events, live or from a revision."),
    "forget": ("command.cli.forget:forget", "Erase sessions for good, of a user or by age."),
    "backup": ("command.cli.backup:backup", "Copy the journal to a file, and verify the copy."),
    "restore": ("command.cli.backup:restore", "Make a backup the journal."),
    "journal": ("command.cli.journal:journal", "Check, export, import or rebuild the journal."),
    "view": ("command.cli.view:view", "Build the view of this version before an upgrade."),
    "status": (
        "command.cli.status:status",
        "Show lag, callbacks, disk space and versions of the service.",
    ),
    "console": (
        "command.cli.console:console",
        "Show the board, sessions, reports and health in a browser.",
    ),
    "keys": ("command.cli.keys:keys", "Edit and check the clients file: who may call the API."),
    "health": ("command.cli.health:health", "Exit with 0 if a process is ready."),
}
"""The function of each command, and its line in the list of commands."""

EXIT_CODES = """\
\b
Exit codes:
  0    done; of a server or watch also: stopped by a signal
  1    failed, not found, or interrupted
  2    wrong usage, or wrong settings
  3    the service cannot be reached, or is not ready
  4    timed out (--timeout)
"""


def discard_stdout() -> None:
    """Send stdout to /dev/null, so that Python's flush at exit does not fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def error_text(error: Exception) -> str:
    """Return an error as one line, with the file's name if it is about a file."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def fail(problem: str) -> NoReturn:
    """Print a problem as one line, and exit with 1."""
    click.echo(f"desk: {problem}", err=True)
    sys.exit(1)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Raise an error of a setting, or of the file that has it, as wrong usage."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise click.UsageError(error_text(error)) from None


class Group(click.Group):
    """A group that lists the first sentence of each command whole."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, each.get_short_help_str(limit=200)) for name, each in self.commands.items()]
            )


class LazyGroup(click.Group):
    """A group that imports a command when it is called, not when it is listed."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command. An output that cannot be written is one line and exit code 1."""
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # errors are ours to print
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            discard_stdout()
            click.echo(f"desk: {error_text(error)}", err=True)
            sys.exit(1)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        return cast(click.Command, getattr(import_module(module), name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


# https://no-color.org
SETTINGS = {"max_content_width": 100, "color": False if os.environ.get("NO_COLOR") else None}


@click.group(cls=LazyGroup, epilog=EXIT_CODES, context_settings=SETTINGS)
@click.version_option(package_name="desk-sessions", prog_name="desk")
def main() -> None:
    """Receive Tencent Cloud Desk's session callbacks, keep them, and serve sessions over gRPC.

    `desk serve` runs everything. Settings are environment variables, see `.env.example`. The client
    commands (sessions, board, report, rejections, watch, forget, status, console) connect to
    --target, to DESK_TARGET, or to DESK_GRPC_LISTEN.
    """

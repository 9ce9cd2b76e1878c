"""The `desk` command: run the service, and ask it. Commands load what they need when they run."""

import os
import sys
from importlib import import_module
from typing import Any, cast

import click

COMMANDS = {
    "serve": ("command.cli.server:serve", "Run everything on this machine."),
    "gateway": ("command.cli.server:gateway", "Run the gateway: callbacks in, journal out."),
    "service": ("command.cli.server:service", "Run the service: journal in, gRPC out."),
    "simulate": ("simulator.command:simulate", "Send made-up callbacks as Desk would."),
    "sessions": ("command.cli.sessions:sessions", "List, get, count, explain or await sessions."),
    "rejections": ("command.cli.rejections:rejections", "List what was rejected and why."),
    "watch": ("command.cli.watch:watch", "Follow what happens, live or from any revision."),
    "status": ("command.cli.status:status", "Show where the service stands."),
    "health": ("command.cli.health:health", "Say by the exit code whether a process is ready."),
}
"""Where each command is, and what it says of itself in the list."""

EXIT_CODES = """\
\b
Exit codes:
  0    done, or stopped as told
  1    failed, or not found
  2    wrong usage, or wrong settings
  3    the service cannot be reached, or is not ready
  4    it did not come to pass in time (--timeout)
"""


def abandon_stdout() -> None:
    """What could not be written must not fail once more when Python flushes it at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def error_text(error: Exception) -> str:
    """Return a line that says what is wrong and, if it is about a file, with which."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


class LazyGroup(click.Group):
    """A group that imports a command when it is called, not when it is listed."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run; that the output cannot be written is one line, as every other failure."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            abandon_stdout()
            click.echo(f"desk: {error_text(error)}", err=True)
            sys.exit(1)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order in which they are helpful."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        return cast(click.Command, getattr(import_module(module), name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, epilog=EXIT_CODES, context_settings={"max_content_width": 100})
@click.version_option(package_name="desk-sessions", prog_name="desk")
def main() -> None:
    """Take Tencent Cloud Desk's session callbacks, keep them, and tell the truth about sessions.

    `desk serve` runs it all. Settings are environment variables, see `.env.example`; the commands
    that ask connect to --target, to DESK_TARGET, or to the service's own DESK_GRPC_LISTEN.
    """

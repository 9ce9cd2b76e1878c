"""Commands of `desk` inside the test's own process: a fraction of the time of a process each.

For commands that ask or explain themselves. Signals, terminals and pipes need `processes.run`.
"""

import json
import os
from contextlib import chdir, nullcontext
from pathlib import Path
from typing import NamedTuple

from click.testing import CliRunner

from command.cli import main
from tests.support.waiting import eventually


class Answer(NamedTuple):
    """The exit code and the output of a command."""

    returncode: int
    stdout: str
    stderr: str


def invoke(
    *arguments: str, target: str | None = None, cwd: Path | None = None, **settings: str
) -> Answer:
    """Run a command to its end; the environment is that of `processes.run`."""
    if target is not None:
        settings["DESK_TARGET"] = target
    ours = ("DESK_", "COLUMNS", "LINES", "TZ")
    inherited = [name for name in os.environ if name.startswith(ours)]
    env: dict[str, str | None] = {**dict.fromkeys(inherited), **settings}
    with chdir(cwd) if cwd else nullcontext():
        result = CliRunner().invoke(main, arguments, prog_name="desk", env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def catch_up(target: str, **settings: str) -> None:
    """Wait until the view of a service has all that its journal has."""

    def lag() -> int:
        status = invoke("status", "--json", target=target, **settings)
        return int(json.loads(status.stdout)["lag"])

    eventually(lambda: lag() == 0)

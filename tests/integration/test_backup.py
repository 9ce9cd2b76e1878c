"""The recipes of docs/operations.md for backup and restore, followed to the letter."""

import asyncio
import os
import re
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest
from desk.client import Client, JournalMismatch

from tests.support.processes import DEADLINE, run, start

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()

SQLITE3 = f"""#!{sys.executable}
import sqlite3, sys
path, command = [each for each in sys.argv[1:] if each != "-readonly"]
database = sqlite3.connect(path)
if command.startswith(".backup "):
    database.backup(sqlite3.connect(command.removeprefix(".backup ")))
else:
    database.execute(command)
    database.commit()
"""
"""As much of SQLite's shell as the recipes use: not every machine has it."""

DOCKER = f"""#!{sys.executable}
import os, shutil, sys
_, _, verb, *arguments = sys.argv
inside = [each.replace("/data/", "data/") for each in arguments]
if verb == "cp":
    shutil.copy(inside[0].removeprefix("gateway:"), inside[1])
elif verb in ("exec", "run"):
    options, command = inside[:inside.index("gateway")], inside[inside.index("gateway") + 1:]
    if "--entrypoint" in options:
        command.insert(0, options[options.index("--entrypoint") + 1])
    if command[0] == "python":
        command[0] = sys.executable
    os.execvp(command[0], command)
"""
"""Runs here what the recipes run in the container."""


def recipes() -> list[str]:
    """The blocks of commands: backup and restore, the same with Docker Compose."""
    section = PAGE.partition("## Back it up\n")[2].partition("\n## ")[0]
    return re.findall(r"(?:^    .*\n)+", section, flags=re.MULTILINE)


def follow(recipe: str, directory: Path) -> None:
    tools = directory / "bin"
    tools.mkdir(exist_ok=True)
    for name, script in (("sqlite3", SQLITE3), ("docker", DOCKER)):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-ec", recipe], cwd=directory, env=environment, check=True, timeout=30)


def begin(session_id: str) -> dict[str, object]:
    return {"SessionId": session_id, "Event": "SessionBegin", "EventTime": 1_725_540_020_000}


@pytest.mark.parametrize("way", [0, 2], ids=["plain", "compose"])
async def test_a_client_that_resumes_at_a_restored_journal_is_told_to_start_over(
    way: int, tmp_path: Path
) -> None:
    backup, restore = recipes()[way : way + 2]
    with start("serve", data_dir=tmp_path / "data") as desk:
        assert desk.post(begin("before"))[0] == 200
        follow(backup, tmp_path)
        assert desk.post(begin("after"))[0] == 200
        async with Client(desk.target) as client:
            journal_id = (await client.status()).header.journal_id
        assert desk.terminate() == 0
    follow(restore, tmp_path)
    assert (tmp_path / "data" / "journal.db").stat().st_mode & 0o077 == 0
    with start("serve", data_dir=tmp_path / "data") as desk:
        assert desk.post(begin("another"))[0] == 200
        arguments = ("sessions", "list", "--min-revision", "2", "--json")
        listed = run(*arguments, target=desk.target).stdout
        assert [name in listed for name in ("before", "after", "another")] == [True, False, True]
        async with Client(desk.target) as client:
            updates = client.subscribe(after_revision=2, journal_id=journal_id)
            async with aclosing(updates), asyncio.timeout(DEADLINE):
                with pytest.raises(JournalMismatch):
                    await anext(updates)

"""examples/consumer.py as a process, and what it wrote."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.support.callbacks import NOON, body
from tests.support.processes import ROOT, RunningDesk
from tests.support.waiting import eventually


@contextmanager
def consuming(
    target: str, database: Path, *, python: Path = Path(sys.executable)
) -> Iterator[None]:
    """Run the consumer, without this tree on its path; kill it in the end."""
    script = ROOT / "examples" / "consumer.py"
    process = subprocess.Popen([python, "-I", script, target, database], cwd=database.parent)
    try:
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def select(database: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql).fetchall()


def execute(database: Path, sql: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(sql)


def states(database: Path) -> dict[str, str]:
    try:
        rows = select(database, "SELECT session_id, state FROM sessions")
    except sqlite3.OperationalError:  # the consumer has not made the table yet
        return {}
    return {session_id: state.removeprefix("SESSION_STATE_") for session_id, state in rows}


def position(database: Path) -> tuple[str, int]:
    ((journal_id, revision),) = select(database, "SELECT journal_id, revision FROM position")
    return journal_id, revision


def assert_copies_resumes_and_starts_over(
    desk: RunningDesk, database: Path, *, python: Path = Path(sys.executable)
) -> None:
    """Follow sessions through three runs of the consumer, the last one with another journal."""
    desk.post(body("SessionBegin", NOON, session_id="a"))
    with consuming(desk.target, database, python=python):
        wait_for(database, 1, a="CHATBOT")

    execute(database, "INSERT INTO sessions VALUES (1, 'kept if resumed', '', '', '')")
    desk.post(body("TransferringToHuman", NOON + 1, session_id="a"))
    desk.post(body("SessionBegin", NOON, session_id="b"))
    with consuming(desk.target, database, python=python):
        wait_for(database, 3, **{"a": "TRANSFERRING", "b": "CHATBOT", "kept if resumed": ""})

    journal_id, _ = position(database)
    execute(database, f"UPDATE position SET journal_id = '{'0' * 32}'")
    with consuming(desk.target, database, python=python):
        wait_for(database, 3, a="TRANSFERRING", b="CHATBOT")
    assert position(database) == (journal_id, 3)


def wait_for(database: Path, revision: int, **expected: str) -> None:
    """Wait until the copy has these states and this position."""
    eventually(lambda: states(database) == expected)
    eventually(lambda: select(database, "SELECT revision FROM position") == [(revision,)])

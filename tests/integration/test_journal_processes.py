"""The journal across processes: killed writers, one writer at a time, readers elsewhere."""

import random
import sqlite3
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from journal.errors import InUse
from journal.sqlite import SqliteReader, SqliteWriter
from tests.support.journal_process import running
from tests.support.journals import PATIENCE, append, new_entry, read_all
from tests.support.waiting import eventually


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def collect(process: subprocess.Popen[str]) -> list[str]:
    """Return the lines of `process`, to which a thread adds as they come."""
    lines: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        with suppress(ValueError):  # closed by us
            lines.extend(process.stdout)

    threading.Thread(target=read, daemon=True).start()
    return lines


def test_what_a_killed_writer_acknowledged_is_there_exactly_once(path: Path) -> None:
    dice = random.Random(11)
    acknowledged: dict[bytes, int] = {}
    for round_ in range(6):
        with running("append", path, f"round{round_}", 12) as process:
            lines = collect(process)
            enough = dice.randrange(20, 1500)
            eventually(lambda: len(lines) >= enough)  # noqa: B023
            process.kill()
            process.wait(PATIENCE)
        for line in lines:
            if line.endswith("\n"):
                name, revision = line.split()
                acknowledged[new_entry(name).id] = int(revision)
        journal = SqliteWriter(path)
        stored = read_all(journal)
        journal.close()
        assert [entry.revision for entry in stored] == list(range(1, len(stored) + 1))
        revisions = {entry.id: entry.revision for entry in stored}
        assert len(revisions) == len(stored)
        assert acknowledged.items() <= revisions.items()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_second_writer_is_refused_until_the_first_is_dead(path: Path) -> None:
    with running("append", path, "first", 1) as process:
        lines = collect(process)
        eventually(lambda: lines)
        with pytest.raises(InUse, match="stop it first"):
            SqliteWriter(path)
        process.kill()
        process.wait(PATIENCE)
    journal = SqliteWriter(path)
    assert append(journal, "second").revision == journal.head()
    journal.close()


def test_a_reader_in_another_process_sees_each_append(path: Path) -> None:
    journal = SqliteWriter(path)
    with running("follow", path) as process:
        lines = collect(process)
        eventually(lambda: lines == ["ready\n"])
        for n in range(1, 31):
            append(journal, n)
            eventually(lambda: lines[-1] == f"{n}\n")  # noqa: B023
    journal.close()


def test_a_disk_that_was_full_is_used_again_when_it_has_room(path: Path) -> None:
    with running("fill", path) as process:
        output, _ = process.communicate(timeout=PATIENCE)
    full, appended = (line.split() for line in output.splitlines())
    assert full[0] == "full"
    assert int(full[1]) > 10
    assert appended == ["appended", str(int(full[1]) + 1)]
    reader = SqliteReader(path)
    assert [entry.revision for entry in read_all(reader)] == list(range(1, int(appended[1]) + 1))
    reader.close()

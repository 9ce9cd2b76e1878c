"""Backup and restore: the recipes of docs/operations.md to the letter, and what can go wrong."""

import asyncio
import os
import pty
import re
import select
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import aclosing, closing
from pathlib import Path

import pytest

from desk.client import Client, JournalMismatch
from journal.sqlite import SqliteReader, SqliteWriter
from storage.lock import FileLock
from tests.support.callbacks import body, entry
from tests.support.commands import invoke
from tests.support.journals import append, read_all
from tests.support.processes import DEADLINE, environment, run, start

FIXTURES = Path(__file__).parents[1] / "fixtures"

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()

DESK = f"""#!/bin/sh
exec {sys.executable} -m command "$@"
"""

DOCKER = f"""#!{sys.executable}
import os, sys
_, _, verb, *arguments = sys.argv
if verb in ("exec", "run"):
    command = arguments[arguments.index("gateway") + 1:]
    os.execvp("desk", command if command[0] == "desk" else ["desk", *command])
"""
"""Runs here what the recipes run in the container."""


def recipes() -> list[str]:
    """The blocks of commands: backup and restore, the same with Docker Compose."""
    section = PAGE.partition("## Back it up\n")[2].partition("\n## ")[0]
    return re.findall(r"(?:^    .*\n)+", section, flags=re.MULTILINE)


def follow(recipe: str, directory: Path) -> None:
    tools = directory / "bin"
    tools.mkdir(exist_ok=True)
    for name, script in (("desk", DESK), ("docker", DOCKER)):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    variables = environment({"PATH": f"{tools}:{os.environ['PATH']}"})
    subprocess.run(["bash", "-ec", recipe], cwd=directory, env=variables, check=True, timeout=60)


def begin(session_id: str) -> dict[str, object]:
    return {"SessionId": session_id, "Event": "SessionBegin", "EventTime": 1_725_540_020_000}


@pytest.mark.tools
async def test_a_client_that_resumes_at_a_restored_journal_is_told_to_start_over(
    tmp_path: Path,
) -> None:
    backup, restore, *_ = recipes()
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


def real_entry(revision: int):
    return entry(revision, body("SessionBegin", 1_725_540_000_000, session_id=f"s{revision}"))


def append_real(journal: SqliteWriter, first: int, last: int) -> None:
    for revision in range(first, last + 1):
        changes = real_entry(revision)
        append(journal, id=changes.id, body=changes.body, sdk_app_id=changes.sdk_app_id)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with a journal of three callbacks."""
    with closing(SqliteWriter(tmp_path / "data" / "journal.db")) as journal:
        append_real(journal, 1, 3)
    return tmp_path / "data"


def desk(*arguments: object, data: Path):
    return invoke(*map(str, arguments), DESK_DATA_DIR=str(data))


def bodies(data: Path) -> list[bytes]:
    with closing(SqliteReader(data / "journal.db")) as journal:
        return [each.body for each in read_all(journal)]


def journal_id(path: Path) -> str:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT journal_id FROM header").fetchone()[0]


def test_the_recipes_for_docker_compose_put_the_journal_back(data: Path, tmp_path: Path) -> None:
    _, _, backup, restore = recipes()
    before = bodies(data)
    follow(backup, tmp_path)
    with closing(SqliteWriter(data / "journal.db")) as journal:
        append_real(journal, 4, 4)
    assert len(bodies(data)) == 4
    follow(restore, tmp_path)
    assert bodies(data) == before


def test_a_backup_is_one_file_for_its_owner_with_all_entries(data: Path, tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        answer = desk("backup", tmp_path / "b.db", data=data)
    finally:
        os.umask(umask)
    assert answer.returncode == 0
    assert answer.stderr.startswith("backed up 3 entries up to revision 3, the last one received")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.db", "data"]
    assert stat.S_IMODE((tmp_path / "b.db").stat().st_mode) == 0o600
    (tmp_path / "copy").mkdir()
    (tmp_path / "b.db").rename(tmp_path / "copy" / "journal.db")
    assert bodies(tmp_path / "copy") == bodies(data)


@pytest.mark.parametrize("name", ["b.db", "b.db-wal", "b.db-journal"])
def test_a_backup_does_not_overwrite_nor_take_the_log_of_another_file(
    data: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("precious")
    answer = desk("backup", tmp_path / "b.db", data=data)
    assert answer.returncode == 1
    assert answer.stderr == f"desk: {tmp_path}/{name} exists already: nothing was written\n"
    assert (tmp_path / name).read_text() == "precious"


def test_a_directory_keeps_as_many_backups_as_it_is_told(data: Path, tmp_path: Path) -> None:
    (backups := tmp_path / "backups").mkdir()
    others = ["journal-20240101T000000Z.db", "journal-20240102T000000Z.db", "journal-mine.db"]
    for name in others:
        (backups / name).touch()
    answer = desk("backup", "--keep", 2, backups, data=data)
    assert answer.returncode == 0, answer.stderr
    kept = {path.name for path in backups.iterdir()}
    (made,) = kept - set(others)
    assert kept == {made, *others[1:]}
    (backups / made).rename(tmp_path / "b.db")
    assert desk("restore", tmp_path / "b.db", data=tmp_path / "other").returncode == 0
    assert desk("backup", "--keep", 2, tmp_path / "c.db", data=data).returncode == 2


def test_a_backup_deletes_what_a_killed_one_left_and_not_what_is_in_use(
    data: Path, tmp_path: Path
) -> None:
    abandoned, used = tmp_path / "journal-a.partial", tmp_path / "journal-b.partial"
    abandoned.touch()
    lock = FileLock(used)
    assert desk("backup", tmp_path / "b.db", data=data).returncode == 0
    lock.release()
    assert (abandoned.exists(), used.exists()) == (False, True)


def test_a_backup_while_callbacks_come_is_one_moment_of_the_journal(
    data: Path, tmp_path: Path
) -> None:
    finished = threading.Event()
    journal = SqliteWriter(data / "journal.db")

    def write() -> None:
        revision = 3
        while not finished.is_set():
            revision += 1
            append_real(journal, revision, revision)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        for number in range(3):
            # A process of its own: locks of another copy of SQLite in this one would not count.
            answer = run("backup", str(tmp_path / f"{number}.db"), DESK_DATA_DIR=str(data))
            assert answer.returncode == 0, answer.stderr
    finally:
        finished.set()
        writing.join(DEADLINE)
        journal.close()
    whole = bodies(data)
    (tmp_path / "copy").mkdir()
    for number in range(3):
        (tmp_path / f"{number}.db").rename(tmp_path / "copy" / "journal.db")
        copied = bodies(tmp_path / "copy")
        assert copied == whole[: len(copied)]
        assert len(copied) >= 3


def test_a_backup_of_a_journal_with_a_damaged_page_fails_and_leaves_no_file(
    data: Path, tmp_path: Path
) -> None:
    with (data / "journal.db").open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xa5" * 4096)
    answer = desk("backup", tmp_path / "b.db", data=data)
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"desk: {data}/journal.db is damaged: ")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_backup_of_a_journal_with_a_changed_entry_is_kept_and_reported(
    data: Path, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(data / "journal.db")) as connection, connection:
        connection.execute(
            "UPDATE entries SET body = CAST(replace(body, 's2', 's9') AS BLOB) WHERE revision = 2"
        )
    answer = desk("backup", tmp_path / "b.db", data=data)
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[1:] == [
        "desk: revision 2: the entry is damaged: its id is not the digest of its app and body"
    ]
    assert (tmp_path / "b.db").exists()


def test_a_backup_needs_a_journal_and_room(data: Path, tmp_path: Path) -> None:
    answer = desk("backup", tmp_path / "b.db", data=tmp_path)
    assert answer.returncode == 1
    assert answer.stderr == f"desk: there is no journal at {tmp_path}/journal.db yet\n"
    assert not (tmp_path / "b.db").exists()


def test_a_backup_on_a_terminal_shows_its_progress(data: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "command", "backup", str(tmp_path / "b.db")],
        env=environment({"DESK_DATA_DIR": str(data), "TERM": "xterm"}),
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        while select.select([ours], [], [], DEADLINE)[0]:
            try:
                shown += os.read(ours, 1000)
            except OSError:  # the other end is closed
                break
        assert process.wait(DEADLINE) == 0
    os.close(ours)
    assert b"checking entries" in shown
    assert b"100%" in shown


def test_a_backup_through_a_pipe_is_the_same(data: Path, tmp_path: Path) -> None:
    with (tmp_path / "b.db").open("wb") as file:
        subprocess.run(
            [sys.executable, "-m", "command", "backup", "--to-stdout"],
            env=environment({"DESK_DATA_DIR": str(data)}),
            stdout=file,
            check=True,
            timeout=DEADLINE,
        )
    assert not list(data.glob("*.partial"))
    assert desk("restore", tmp_path / "b.db", data=tmp_path / "other").returncode == 0
    assert bodies(tmp_path / "other") == bodies(data)


def test_a_backup_through_a_pipe_without_a_directory_is_one_line(tmp_path: Path) -> None:
    answer = desk("backup", "--to-stdout", data=tmp_path / "none")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == (
        "desk: DESK_DATA_DIR, in which the backup is made first, is not there: "
        f"{tmp_path / 'none'}\n"
    )


def test_a_restored_journal_is_another_one_without_views(data: Path, tmp_path: Path) -> None:
    assert desk("backup", tmp_path / "b.db", data=data).returncode == 0
    (data / "view-0123.db").touch()
    (data / "view-0123.db-wal").touch()
    before = journal_id(data / "journal.db")
    answer = desk("restore", tmp_path / "b.db", data=data)
    assert answer.returncode == 0
    assert answer.stderr.startswith("restored 3 entries up to revision 3")
    assert journal_id(data / "journal.db") != before
    assert journal_id(tmp_path / "b.db") == before
    assert not list(data.glob("view-*.db*[!k]"))
    assert stat.S_IMODE((data / "journal.db").stat().st_mode) == 0o600
    with closing(SqliteWriter(data / "journal.db")) as journal:
        append_real(journal, 4, 4)
        assert journal.head() == 4


def test_a_restore_that_would_lose_callbacks_says_so_and_needs_a_yes(
    data: Path, tmp_path: Path
) -> None:
    assert desk("backup", tmp_path / "b.db", data=data).returncode == 0
    with closing(SqliteWriter(data / "journal.db")) as journal:
        append_real(journal, 4, 6)
    present = bodies(data)
    answer = desk("restore", tmp_path / "b.db", data=data)
    assert answer.returncode == 1
    assert answer.stderr.splitlines() == [
        "lost: 3 callbacks of the present journal, received from 2023-11-14 22:13:20Z on, "
        "revisions 4 to 6: not in the backup",
        "desk: nothing was changed; --yes restores all the same",
    ]
    assert bodies(data) == present
    assert desk("restore", "--yes", tmp_path / "b.db", data=data).returncode == 0
    assert bodies(data) == present[:3]


def test_a_damaged_backup_does_not_replace_a_journal_without_a_yes(
    data: Path, tmp_path: Path
) -> None:
    assert desk("backup", tmp_path / "b.db", data=data).returncode == 0
    with closing(sqlite3.connect(tmp_path / "b.db")) as connection, connection:
        connection.execute("UPDATE entries SET body = x'00' WHERE revision = 2")
    present = bodies(data)
    answer = desk("restore", tmp_path / "b.db", data=data)
    assert answer.returncode == 1
    assert answer.stderr.startswith("lost: 1 part of the backup, which is damaged\n")
    assert bodies(data) == present
    assert desk("restore", "--yes", tmp_path / "b.db", data=data).returncode == 1
    assert bodies(data) == [present[0], b"\0", present[2]]


@pytest.mark.parametrize("who", ["gateway", "service"])
def test_a_restore_is_refused_while_anything_runs(who: str, data: Path, tmp_path: Path) -> None:
    assert desk("backup", tmp_path / "b.db", data=data).returncode == 0
    before = journal_id(data / "journal.db")
    with start(who, data_dir=data) as running:
        running.ready()
        answer = run("restore", "--yes", str(tmp_path / "b.db"), DESK_DATA_DIR=str(data))
        assert answer.returncode == 1
        assert answer.stderr.endswith(" is in use: stop gateway and service first\n")
    assert journal_id(data / "journal.db") == before


@pytest.mark.parametrize("content", [b"", b"no database" * 1000, None])
def test_what_is_no_backup_is_refused_and_nothing_changes(
    content: bytes | None, data: Path, tmp_path: Path
) -> None:
    if content is None:  # the half of one
        assert desk("backup", tmp_path / "b.db", data=data).returncode == 0
        whole = (tmp_path / "b.db").read_bytes()
        content = whole[: len(whole) // 2]
    (tmp_path / "b.db").write_bytes(content)
    before = bodies(data)
    answer = desk("restore", "--yes", tmp_path / "b.db", data=data)
    assert answer.returncode == 1
    assert answer.stderr.startswith("desk: ")
    assert answer.stderr.count("\n") == 1
    assert str(tmp_path / "b.db") in answer.stderr
    assert bodies(data) == before
    assert not list(data.glob("*.partial"))


def test_a_backup_in_an_older_format_is_restored_in_ours(tmp_path: Path) -> None:
    data = tmp_path / "data"
    answer = desk("restore", FIXTURES / "journal-version-1.db", data=data)
    assert answer.returncode == 0, answer.stderr
    assert sorted(file.name for file in data.iterdir()) == ["journal.db", "journal.db.lock"]
    with closing(SqliteWriter(data / "journal.db")) as journal:
        assert len(read_all(journal)) == 31


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")


@root_only
def test_what_root_restores_belongs_to_the_owner_of_the_directory(
    data: Path, tmp_path: Path
) -> None:
    assert desk("backup", tmp_path / "b.db", data=data).returncode == 0
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (other := Path(folder, "data")).mkdir(mode=0o700)
        os.chown(other, 12345, 12345)
        answer = run("restore", str(tmp_path / "b.db"), DESK_DATA_DIR=str(other))
        assert answer.returncode == 0, answer.stderr
        assert {(path.name, path.stat().st_uid) for path in other.iterdir()} == {
            ("journal.db", 12345),
            ("journal.db.lock", 12345),
        }

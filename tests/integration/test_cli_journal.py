"""`desk journal`: damage is found, listed and mended; the journal is taken apart and made again."""

import json
import os
import re
import resource
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import structs

from journal.entry import DAMAGED, Entry, NewEntry
from journal.errors import Damaged
from journal.forgetting import forget_entry, forget_list_of
from journal.sqlite import SqliteReader, SqliteWriter
from service.view.store import locate
from tests.support.callbacks import NOON, body, entry
from tests.support.commands import Answer, invoke
from tests.support.journals import pages, read_all
from tests.support.processes import environment, start
from tests.support.views import follow

ENTRIES = 200
PAGE = 4096


def real_entry(number: int) -> NewEntry:
    made = entry(1, body("SessionBegin", NOON + number, session_id=f"s{number}"))
    return NewEntry(id=made.id, sdk_app_id=made.sdk_app_id, received_at=NOON, body=made.body)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with a journal and its view."""
    data = tmp_path / "data"
    with closing(SqliteWriter(data / "journal.db")) as journal:
        for number in range(1, ENTRIES + 1):
            journal.append(real_entry(number), timeout=60)
        follow(journal, data, ENTRIES)
    return data


def desk(*arguments: object, data: Path) -> Answer:
    return invoke("journal", *map(str, arguments), DESK_DATA_DIR=str(data))


def entries(data: Path) -> list[Entry]:
    with closing(SqliteReader(data / "journal.db")) as journal:
        return read_all(journal)


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def damage_a_page(data: Path, session_id: str) -> None:
    """Overwrite the page that has the body of a session's callback."""
    path = data / "journal.db"
    page = path.read_bytes().index(session_id.encode()) // PAGE
    with path.open("r+b") as file:
        file.seek(page * PAGE)
        file.write(b"\xa5" * PAGE)


def change_revision(data: Path, entry: Entry, bit: int) -> None:
    """Change a bit of the number by which SQLite finds an entry, which is below 128."""
    path = data / "journal.db"
    content = bytearray(path.read_bytes())
    # A row: the number, a header that begins with its own length, and then the id.
    (at,) = (
        found.start()
        for found in re.finditer(re.escape(bytes([entry.revision])), content)
        if content[(end := found.start() + 1 + content[found.end()]) : end + 16] == entry.id
    )
    content[at] ^= bit
    path.write_bytes(content)


def test_a_journal_and_a_view_without_damage(data: Path) -> None:
    answer = desk("check", data=data)
    assert answer.returncode == 0
    assert answer.stdout.splitlines() == [
        "journal.db: nothing is damaged",
        f"{locate(data).name} (revision {ENTRIES}): nothing is damaged",
    ]


def test_a_check_may_run_while_everything_runs(tmp_path: Path) -> None:
    with start("serve", data_dir=tmp_path / "data") as running:
        begin = {"SessionId": "s", "Event": "SessionBegin", "EventTime": 1_725_540_020_000}
        assert running.post(begin)[0] == 200
        assert desk("check", data=tmp_path / "data").returncode == 0
        assert running.post(begin | {"SessionId": "t"})[0] == 200


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET body = CAST(replace(body, 's77', 's78') AS BLOB) WHERE revision = 77",
        "UPDATE entries SET sdk_app_id = sdk_app_id + 1 WHERE revision = 77",
        "UPDATE entries SET id = CAST(randomblob(16) AS BLOB) WHERE revision = 77",
        "UPDATE entries SET kind = 2 WHERE revision = 77",
    ],
)
def test_a_changed_entry_is_found(statement: str, data: Path) -> None:
    change(data / "journal.db", statement)
    answer = desk("check", data=data)
    assert answer.returncode == 1
    assert f"journal.db: revision 77: {DAMAGED}\n" in answer.stdout


def test_a_changed_view_is_found(data: Path) -> None:
    change(
        locate(data),
        "UPDATE feed SET record = CAST(record || 'x' AS BLOB) WHERE rowid = 1048576 * 9",
    )
    answer = desk("check", data=data)
    assert answer.returncode == 1
    assert "its feed has another digest than the one that it was written with" in answer.stdout


def test_what_an_id_does_not_cover_is_compared_with_the_view(data: Path) -> None:
    changes = {
        71: "received_at = received_at + 1",
        72: "request_id = 'another'",
        73: "client_ip = '203.0.113.8'",
        74: "platform = 'Wec'",
    }
    for revision, new in changes.items():
        change(data / "journal.db", f"UPDATE entries SET {new} WHERE revision = {revision}")
    answer = desk("check", data=data)
    assert answer.returncode == 1
    assert answer.stdout.splitlines() == [
        "journal.db: nothing is damaged",
        *(
            f"{locate(data).name} (revision {ENTRIES}): revision {revision}: "
            "the view has another entry than the journal"
            for revision in changes
        ),
    ]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        (
            f"UPDATE header SET oldest_revision = 9, journal_id = '{'0' * 32}'",
            [
                "the header has 9 as the oldest revision, and there is revision 1",
                "it is the view of another journal",
            ],
        ),
        (
            "ALTER TABLE header RENAME COLUMN oldest_revision TO oldest_revisioo",
            ["the header cannot be read: no such column: oldest_revision"],
        ),
    ],
)
def test_a_changed_header_is_found(statement: str, found: list[str], data: Path) -> None:
    change(data / "journal.db", statement)
    answer = desk("check", data=data)
    assert answer.returncode == 1
    assert [line for line in found if line not in answer.stdout] == []


def test_a_view_that_does_not_fit_itself_is_found(data: Path) -> None:
    for statement in (
        "UPDATE sessions SET session = CAST(session || 'x' AS BLOB) WHERE number = 9",
        "UPDATE feed SET session_id = 's11' WHERE event_revision = 10",
        "UPDATE feed SET client_user_id = 'x' WHERE event_revision = 11",
    ):
        change(locate(data), statement)
    answer = desk("check", data=data)
    assert answer.returncode == 1
    for found in (
        "revision 9: the view has another session than its feed\n",
        "revision 10: the view has a record that does not fit its columns\n",
        "revision 11: the view has a record that does not fit its columns\n",
    ):
        assert found in answer.stdout


def test_a_damaged_index_of_a_view_is_found(data: Path) -> None:
    with closing(sqlite3.connect(locate(data))) as connection:
        connection.executescript("""
            PRAGMA writable_schema = ON;
            UPDATE sqlite_schema SET rootpage =
                (SELECT rootpage FROM sqlite_schema WHERE name = 'sessions_by_state')
            WHERE name = 'sessions_by_agent'
        """)
    answer = desk("check", data=data)
    assert answer.returncode == 1
    assert "sessions_by_agent" in answer.stdout


def test_an_entry_that_only_the_view_has_is_found(data: Path) -> None:
    change(data / "journal.db", "DELETE FROM entries WHERE revision = 33")
    answer = desk("check", data=data)
    assert answer.returncode == 1
    assert (
        "revision 33: the view has an entry that the journal lacks, or cannot read\n"
        in answer.stdout
    )


def test_a_damaged_page_is_found_and_what_is_behind_it_still_read(data: Path) -> None:
    damage_a_page(data, "s100")
    answer = desk("check", data=data)
    assert answer.returncode == 1
    assert "it cannot be read: " in answer.stdout
    exported = desk("export", data=data)
    assert exported.returncode == 1
    numbers = [json.loads(line)["revision"] for line in exported.stdout.splitlines()]
    assert (numbers[0], numbers[-1]) == (1, ENTRIES)
    assert ENTRIES * 0.8 < len(numbers) < ENTRIES
    assert 100 not in numbers


def test_what_is_exported_and_imported_is_the_same_journal_with_another_id(
    data: Path, tmp_path: Path
) -> None:
    with closing(SqliteWriter(data / "journal.db")) as journal:
        odd = entry(1, b"\xff\x00 no JSON")
        new = NewEntry(id=odd.id, sdk_app_id=odd.sdk_app_id, received_at=NOON, body=odd.body)
        journal.append(new, timeout=60)
        before = journal.id
    umask = os.umask(0)
    try:
        assert desk("export", tmp_path / "lines", data=data).returncode == 0
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "lines").stat().st_mode) == 0o600
    answer = desk("import", tmp_path / "lines", data=tmp_path / "other")
    assert (answer.returncode, answer.stderr) == (0, "imported 201 entries\n")
    assert entries(tmp_path / "other") == entries(data)
    with closing(SqliteWriter(tmp_path / "other" / "journal.db")) as journal:
        assert journal.id != before
        assert journal.append(real_entry(9999), timeout=60).revision == ENTRIES + 2


def test_an_export_and_an_import_overwrite_nothing(data: Path, tmp_path: Path) -> None:
    (tmp_path / "lines").touch()
    assert desk("export", tmp_path / "lines", data=data).returncode == 1
    answer = desk("import", tmp_path / "lines", data=data)
    assert answer.returncode == 1
    assert answer.stderr == f"desk: {data}/journal.db exists already: nothing was changed\n"
    assert len(entries(data)) == ENTRIES


def test_an_export_that_fails_leaves_no_file(data: Path, tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "command", "journal", "export", str(tmp_path / "lines")],
        env=environment({"DESK_DATA_DIR": str(data)}),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == f"desk: {tmp_path}/lines: File too large\n"
    assert not (tmp_path / "lines").exists()


@pytest.mark.parametrize("bit", [1, 4, 64])
def test_a_changed_revision_is_found_and_mended_and_nothing_is_read_twice(
    bit: int, data: Path
) -> None:
    before = entries(data)
    change_revision(data, before[99], bit)
    answer = desk("check", data=data)
    assert answer.returncode == 1
    assert " stands behind " in answer.stdout
    found: list[Entry] = []
    with (
        closing(SqliteReader(data / "journal.db")) as journal,
        pytest.raises(Damaged, match=" stands behind "),
    ):
        found.extend(pages(journal, limit=7))
    assert found == before[: len(found)]
    assert desk("restore", "--from-view", data=data).returncode == 0
    assert entries(data) == before


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", "null", '{"revision": 1, "body": 5}'])
def test_a_line_that_is_no_entry_is_named_and_makes_no_journal(line: str, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text(f"{line}\n")
    answer = desk("import", tmp_path / "lines", data=tmp_path / "other")
    assert answer.returncode == 1
    assert answer.stderr.startswith("desk: line 1 is no entry: ")
    assert answer.stderr.count("\n") == 1
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["journal.db.lock"]


def test_a_lost_journal_is_rebuilt_from_its_view(data: Path) -> None:
    before = entries(data)
    for file in data.glob("journal.db*"):
        file.unlink()
    answer = desk("restore", "--from-view", data=data)
    assert answer.returncode == 0, answer.stderr
    assert entries(data) == before
    assert not list(data.glob("view-*.db"))


def test_a_lost_journal_in_which_something_was_forgotten_is_rebuilt_with_that(data: Path) -> None:
    before = entries(data)
    forgetting = forget_entry(before[0].sdk_app_id, NOON, session_ids=["s150"], up_to=150)
    with closing(SqliteWriter(data / "journal.db")) as journal:
        journal.append(forgetting, timeout=60)
        follow(journal, data, ENTRIES + 1)
    for file in data.glob("journal.db*"):
        file.unlink()
    answer = desk("restore", "--from-view", data=data)
    assert answer.returncode == 0, answer.stderr
    *kept, forget = entries(data)
    assert kept == [each for each in before if each.revision != 150]
    assert (forget.revision, forget_list_of(forget).session_ids) == (ENTRIES + 1, ("s150",))
    with closing(SqliteReader(data / "journal.db")) as journal:
        follow(journal, data, ENTRIES + 1)
    assert desk("check", data=data).returncode == 0


def test_a_damaged_journal_is_mended_from_its_view_and_keeps_what_the_view_lacks(
    data: Path,
) -> None:
    with closing(SqliteWriter(data / "journal.db")) as journal:
        journal.append(real_entry(ENTRIES + 1), timeout=60)
        old_id = journal.id
    before = entries(data)
    damage_a_page(data, "s100")
    change_one = "UPDATE entries SET sdk_app_id = 7 WHERE revision = 7"
    change(data / "journal.db", change_one)
    answer = desk("restore", "--from-view", data=data)
    assert answer.returncode == 0, answer.stderr
    assert entries(data) == before
    assert len(list(data.glob("journal.db.damaged-*"))) == 1
    with closing(SqliteReader(data / "journal.db")) as journal:
        assert journal.id != old_id
    assert desk("check", data=data).returncode == 0


def test_a_journal_that_is_whole_is_left_alone(data: Path) -> None:
    before = (data / "journal.db").read_bytes()
    answer = desk("restore", "--from-view", data=data)
    assert answer.returncode == 1
    assert answer.stderr == "desk: the journal is whole: nothing was changed\n"
    assert (data / "journal.db").read_bytes() == before
    assert locate(data).exists()


def test_what_neither_journal_nor_view_has_is_said_to_be_lost(data: Path) -> None:
    with closing(SqliteWriter(data / "journal.db")) as journal:
        journal.append(real_entry(ENTRIES + 1), timeout=60)
        journal.append(real_entry(ENTRIES + 2), timeout=60)
    change(data / "journal.db", f"UPDATE entries SET body = x'00' WHERE revision = {ENTRIES + 1}")
    answer = desk("restore", "--from-view", data=data)
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1] == f"desk: revision {ENTRIES + 1}: {DAMAGED}"
    assert [each.revision for each in entries(data)] == [*range(1, ENTRIES + 1), ENTRIES + 2]


def test_an_entry_that_came_damaged_to_the_view_is_kept_as_it_is(data: Path) -> None:
    with closing(SqliteWriter(data / "journal.db")) as journal:
        damaged = structs.replace(real_entry(ENTRIES + 1), body=b"no longer what it was")
        journal.append(damaged, timeout=60)
        follow(journal, data, ENTRIES + 1)
    before = entries(data)
    (data / "journal.db").unlink()
    answer = desk("restore", "--from-view", data=data)
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1] == f"desk: revision {ENTRIES + 1}: {DAMAGED}"
    assert entries(data) == before


def test_a_journal_is_not_rebuilt_while_anything_runs(data: Path) -> None:
    with start("gateway", data_dir=data) as gateway:
        gateway.ready()
        answer = desk("restore", "--from-view", data=data)
        assert answer.returncode == 1
        assert answer.stderr.endswith(" is in use: stop gateway and service first\n")

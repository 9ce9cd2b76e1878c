"""`desk forget` against a real `desk serve`; what was forgotten is forgotten again by a restore."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from journal.entry import Kind
from journal.forgetting import forget_list_of
from journal.sqlite import SqliteReader
from tests.support.callbacks import NOON
from tests.support.commands import Answer, catch_up, invoke
from tests.support.journals import read_all
from tests.support.processes import RunningDesk, run, start
from tests.support.rpc import PATIENCE
from tests.support.waiting import eventually


def begin(session_id: str, user: str) -> dict[str, Any]:
    return {
        "SessionId": session_id,
        "Event": "SessionBegin",
        "EventTime": NOON,
        "ClientUserId": user,
    }


@contextmanager
def served(folder: Path, **settings: str) -> Iterator[RunningDesk]:
    with start("serve", data_dir=folder / "data", **settings) as running:
        for body in (begin("one", "eve"), begin("two", "eve"), begin("three", "bob")):
            assert running.post(body)[0] == 200
        assert running.post(b"not json")[0] == 400
        answer = invoke("sessions", "list", "--min-revision", "4", target=running.target)
        assert answer.returncode == 0, answer.stderr
        yield running


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[RunningDesk]:
    with served(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    """One that all tests share which forget nothing."""
    with served(tmp_path_factory.mktemp("unchanged")) as running:
        yield running


def forget(desk: RunningDesk, *arguments: str) -> Answer:
    return invoke("forget", *arguments, target=desk.target)


def sessions(desk: RunningDesk) -> set[str]:
    listed = invoke("sessions", "list", "--json", target=desk.target).stdout
    return {json.loads(line)["session_id"] for line in listed.splitlines()}


def rejections(desk: RunningDesk) -> str:
    return invoke("rejections", "--json", target=desk.target).stdout


def test_the_sessions_of_a_user_are_forgotten(desk: RunningDesk) -> None:
    counted = forget(desk, "--user", "eve", "--dry-run")
    assert counted.returncode == 0, counted.stderr
    assert counted.stdout == "2 sessions, revisions 1 to 2, would be forgotten\n"
    assert sessions(desk) == {"one", "two", "three"}
    done = forget(desk, "--user", "eve", "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "2 sessions, revisions 1 to 2, forgotten",
        "The bytes in the journal are deleted.",
    ]
    assert sessions(desk) == {"three"}
    assert forget(desk, "--user", "eve", "--yes").stdout == "nothing would be forgotten\n"


def test_the_app_is_named_so_that_a_wrong_one_is_noticed(unchanged: RunningDesk) -> None:
    wrong = forget(unchanged, "--user", "eve", "--app", "7", "--yes")
    assert (wrong.returncode, wrong.stdout) == (0, "nothing would be forgotten in app 7\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--session", "one", "--session", "three"), {"sessions": 2, "malformed": 0}),
        (("--silent-for", "0s"), {"sessions": 3, "malformed": 0}),
        (("--silent-for", "1h"), {"sessions": 0, "malformed": 0}),
        (("--malformed-before", "2999-01-01"), {"sessions": 0, "malformed": 1}),
        (("--agent-messages-of", "nobody"), {"sessions": 0, "malformed": 0}),
    ],
)
def test_a_dry_run_counts(
    unchanged: RunningDesk, arguments: tuple[str, ...], expected: dict[str, int]
) -> None:
    answer = forget(unchanged, *arguments, "--dry-run", "--json")
    counted = json.loads(answer.stdout)
    assert {name: counted[name] for name in expected} == expected
    assert counted["complete"]
    assert counted["forget_revisions"] == []


def test_nothing_is_forgotten_without_a_confirmation(unchanged: RunningDesk) -> None:
    refused = run("forget", "--user", "eve", target=unchanged.target, stdin="")
    assert refused.returncode == 1
    assert "2 sessions, revisions 1 to 2, would be forgotten for good" in refused.stderr
    assert "--yes" in refused.stderr
    assert sessions(unchanged) == {"one", "two", "three"}


@pytest.mark.parametrize("arguments", [(), ("--user", "eve", "--session", "one")])
def test_it_must_be_said_once_what_to_forget(arguments: tuple[str, ...]) -> None:
    refused = invoke("forget", *arguments, "--yes", target="127.0.0.1:1")
    assert refused.returncode == 2
    assert "give one of --session, --user" in refused.stderr


def test_a_service_that_cannot_be_reached_is_exit_code_3() -> None:
    assert invoke("forget", "--user", "eve", target="127.0.0.1:1").returncode == 3


@pytest.mark.tools
def test_a_restore_forgets_again_what_was_forgotten_after_the_backup(
    desk: RunningDesk, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    backup, lists = tmp_path / "backup.db", tmp_path / "forgotten.jsonl"
    assert offline(data, "backup", backup).returncode == 0
    assert forget(desk, "--user", "eve", "--yes").returncode == 0
    assert forget(desk, "--malformed-before", "2999-01-01", "--yes").returncode == 0
    assert offline(data, "journal", "export", "--forgotten", lists).returncode == 0
    assert [json.loads(line)["kind"] for line in lists.read_text().splitlines()] == [2, 2]
    assert desk.terminate() == 0

    refused = offline(data, "restore", backup)
    assert refused.returncode == 1
    assert "lost: 2 FORGET entries of the present journal" in refused.stderr
    older = tmp_path / "older.jsonl"  # a list that was exported too early
    older.write_text(lists.read_text().splitlines(keepends=True)[0])
    refused = offline(data, "restore", backup, "--then-forget", older)
    assert refused.returncode == 1
    assert "lost: 1 FORGET entry of the present journal" in refused.stderr
    restored = offline(data, "restore", backup, "--then-forget", lists)
    assert restored.returncode == 0, restored.stderr
    assert "2 FORGET entries of" in restored.stderr
    with start("serve", data_dir=data) as again:
        eventually(lambda: sessions(again) == {"three"}, within=PATIENCE)
        eventually(lambda: rejections(again) == "", within=PATIENCE)
        assert offline(data, "journal", "check").returncode == 0
    with closing(SqliteReader(data / "journal.db")) as journal:
        entries = [each for each in read_all(journal) if each.kind == Kind.FORGET]
    assert [forget_list_of(each).session_ids for each in entries] == [("one", "two"), ()]
    assert [forget_list_of(each).up_to for each in entries] == [2, 4]
    assert own_ids(lists) == [each.id.hex() for each in entries], "they are known again later"
    newer, own = tmp_path / "newer.db", tmp_path / "own.jsonl"
    assert offline(data, "journal", "export", "--forgotten", own).returncode == 0
    assert offline(data, "backup", newer).returncode == 0
    again = offline(data, "restore", newer, "--then-forget", own)
    assert "0 FORGET entries of" in again.stderr


def own_ids(lists: Path) -> list[str]:
    return [json.loads(line)["id"] for line in lists.read_text().splitlines()]


@pytest.mark.tools
def test_a_list_of_callbacks_is_not_applied(desk: RunningDesk, tmp_path: Path) -> None:
    data = tmp_path / "data"
    backup, callbacks = tmp_path / "backup.db", tmp_path / "callbacks.jsonl"
    assert offline(data, "backup", backup).returncode == 0
    assert desk.post(begin("four", "eve"))[0] == 200
    assert offline(data, "journal", "export", callbacks).returncode == 0
    assert desk.terminate() == 0
    before = (data / "journal.db").read_bytes()
    refused = offline(data, "restore", backup, "--yes", "--then-forget", callbacks)
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) <= 3
    assert (data / "journal.db").read_bytes() == before


@pytest.mark.tools
def test_the_retention_runs_by_itself_and_tells_the_status(tmp_path: Path) -> None:
    settings = {"DESK_RETENTION": "400d", "DESK_RETENTION_AT": "00:00"}
    with served(tmp_path, **settings) as desk:
        now = {**begin("new", "eve"), "EventTime": time.time_ns() // 1_000_000}
        assert desk.post(now)[0] == 200
        catch_up(desk.target)

        def completed() -> bool:
            status = json.loads(invoke("status", "--json", target=desk.target).stdout)
            return bool(status["retention"].get("completed_at"))

        eventually(completed)
        assert sessions(desk) == {"one", "two", "three", "new"}, "their callbacks came just now"
        shown = invoke("status", target=desk.target).stdout
        assert "retention         400 days; last run completed 20" in shown
    with served(tmp_path) as desk:
        assert "retention" not in invoke("status", target=desk.target).stdout


@pytest.mark.tools
def test_forget_entries_are_exported_imported_and_checked(
    desk: RunningDesk, tmp_path: Path
) -> None:
    data, other, file = tmp_path / "data", tmp_path / "other", tmp_path / "all.jsonl"
    assert forget(desk, "--user", "eve", "--yes").returncode == 0
    assert desk.terminate() == 0
    assert offline(data, "journal", "export", file).returncode == 0
    assert offline(other, "journal", "import", file).returncode == 0
    assert offline(other, "journal", "check").returncode == 0
    with (
        closing(SqliteReader(data / "journal.db")) as source,
        closing(SqliteReader(other / "journal.db")) as copy,
    ):
        assert read_all(source) == read_all(copy)


def offline(data: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return run(*map(str, arguments), DESK_DATA_DIR=str(data))

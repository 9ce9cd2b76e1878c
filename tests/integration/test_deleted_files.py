"""Files of journal and view that are deleted or replaced while everything runs."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from journal.sqlite import SqliteReader
from service.view.store import locate
from tests.support.commands import invoke
from tests.support.journals import read_all
from tests.support.processes import DEADLINE, RunningDesk, start, wait_until


def begin(session_id: str) -> dict[str, object]:
    return {"SessionId": session_id, "Event": "SessionBegin", "EventTime": 1_725_540_020_000}


def listed(running: RunningDesk, revision: int) -> bool:
    """Return True if sessions are listed as of a revision, which may take a moment."""
    answer = invoke(
        "sessions", "list", "--min-revision", str(revision), "--limit", "100000", "--json",
        "--timeout", "10", target=running.target,
    )  # fmt: skip
    return answer.returncode == 0 and answer.stdout.count("\n") >= revision


def post_until(running: RunningDesk, finished: threading.Event, acknowledged: list[str]) -> None:
    number = 0
    while not finished.is_set():
        number += 1
        try:
            status, _ = running.post(begin(f"s{number}"))
        except OSError:
            continue
        if status == 200:
            acknowledged.append(f"s{number}")


def kill_gateway(running: RunningDesk) -> None:
    started = [r for r in running.records if r["event"] == "process_started"]
    os.kill(next(r["pid"] for r in started if r["name"] == "gateway"), signal.SIGKILL)


@pytest.mark.tools
@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_deleted_wal_of_the_journal_loses_nothing_that_was_acknowledged(
    suffix: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    finished, acknowledged = threading.Event(), list[str]()
    with start("serve", data_dir=data) as desk:
        desk.ready()
        posting = threading.Thread(target=post_until, args=(desk, finished, acknowledged))
        posting.start()
        try:
            wait_until(lambda: len(acknowledged) > 100)
            for _ in range(3):
                wait_until((data / f"journal.db{suffix}").exists)
                (data / f"journal.db{suffix}").unlink()
                enough = len(acknowledged) + 100
                wait_until(lambda: len(acknowledged) > enough)  # noqa: B023
            desk.wait_for(lambda record: record["event"] == "journal_file_replaced")
        finally:
            finished.set()
            posting.join(DEADLINE)
        kill_gateway(desk)
        wait_until(lambda: listed(desk, len(acknowledged)))
        os.killpg(desk.pid, signal.SIGKILL)
    with closing(SqliteReader(data / "journal.db")) as journal:
        kept = b"".join(entry.body for entry in read_all(journal))
    assert [name for name in acknowledged if f'"{name}"'.encode() not in kept] == []


def remove(*suffixes: str) -> Callable[[Path], None]:
    def act(view: Path) -> None:
        for suffix in suffixes:
            Path(f"{view}{suffix}").unlink()

    return act


def truncate_wal(view: Path) -> None:
    os.truncate(f"{view}-wal", 5000)


@pytest.mark.tools
@pytest.mark.parametrize(
    "damage",
    [remove(""), remove("-wal"), remove("-shm"), remove("", "-wal", "-shm"), truncate_wal],
    ids=["view", "wal", "shm", "all", "truncated"],
)
def test_a_view_whose_files_were_deleted_heals_by_itself(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with start("serve", data_dir=data) as desk:
        for number in range(1, 21):
            assert desk.post(begin(f"s{number}"))[0] == 200
        wait_until(lambda: listed(desk, 20))
        damage(locate(data))
        assert desk.post(begin("after"))[0] == 200
        wait_until(lambda: listed(desk, 21))
        assert desk.post(begin("later"))[0] == 200
        wait_until(lambda: listed(desk, 22))
        assert not [r for r in desk.records if r["event"] == "process_died"]


@pytest.mark.tools
def test_no_empty_journal_is_made_where_a_view_has_what_was_in_the_lost_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with start("serve", data_dir=data) as desk:
        assert desk.post(begin("precious"))[0] == 200
        wait_until(lambda: listed(desk, 1))
        assert desk.terminate() == 0
    (data / "journal.db").unlink()
    with start("serve", data_dir=data) as desk:
        waiting = desk.wait_for(
            lambda r: r["process"] == "gateway" and r["event"] == "waiting_for_journal"
        )
        assert "restore --from-view" in waiting["reason"]
        answer = invoke("journal", "restore", "--from-view", DESK_DATA_DIR=str(data))
        assert answer.returncode == 0, answer.stderr
        assert desk.post(begin("next"))[0] == 200
        wait_until(lambda: listed(desk, 2))

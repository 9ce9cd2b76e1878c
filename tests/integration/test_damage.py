"""A disk that changes what was written: it is found, and the rest goes on."""

import json
import sqlite3
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from journal.entry import DAMAGED
from tests.support.commands import Answer, invoke
from tests.support.loopback import reserved_port
from tests.support.processes import DEADLINE, SDK_APP_ID, RunningDesk, start, wait_until
from tests.support.waiting import eventually

TIME = 1_725_540_020_000


def begin(session_id: str) -> dict[str, object]:
    return {"SessionId": session_id, "Event": "SessionBegin", "EventTime": TIME}


def flip_a_bit(journal: Path, session_id: str) -> None:
    """Change the name of a session where it stands in a body, as a disk may do."""
    with closing(sqlite3.connect(journal)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = journal.read_bytes()
    at = content.index(session_id.encode())
    with journal.open("r+b") as file:
        file.seek(at)
        file.write(bytes([content[at] ^ 1]))


def lines(running: RunningDesk, event: str) -> list[dict[str, object]]:
    return [record for record in running.records if record["event"] == event]


def wait_for_revision(running: RunningDesk, revision: int) -> None:
    answer = invoke(
        "sessions", "list", "--min-revision", str(revision), "--json", target=running.target
    )
    assert answer.returncode == 0, answer.stderr


@pytest.mark.tools
def test_a_changed_bit_is_found_at_the_next_build_and_the_rest_goes_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with start("serve", data_dir=data) as desk:
        for name in ("first", "changed", "third"):
            assert desk.post(begin(name))[0] == 200
        wait_for_revision(desk, 3)
        assert desk.terminate() == 0
    flip_a_bit(data / "journal.db", "changed")
    for file in data.glob("view-*"):
        file.unlink()
    with start("serve", data_dir=data) as desk:
        damaged = desk.wait_for(lambda record: record["event"] == "entry_damaged")
        assert (damaged["level"], damaged["revision"]) == ("error", 2)
        assert desk.post(begin("after"))[0] == 200
        wait_for_revision(desk, 4)
        listed = invoke("sessions", "list", "--json", target=desk.target).stdout
        assert [listed.count(f'"{name}"') for name in ("first", "third", "after")] == [1, 1, 1]
        assert listed.count("\n") == 3
        rejected = invoke("rejections", "--json", target=desk.target).stdout
        assert rejected.count("\n") == 1
        assert DAMAGED in rejected
        assert "REJECTION_REASON_MALFORMED" in rejected
        status = invoke("status", target=desk.target)
        assert "damaged entries   1\n" in status.stdout
        assert "desk: entries of the journal are damaged: see desk journal check\n" in status.stderr


def overwrite_page(journal: Path, session_id: str) -> None:
    """Overwrite the page that has the body of a session's callback."""
    with closing(sqlite3.connect(journal)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    page = journal.read_bytes().index(session_id.encode()) // 4096
    with journal.open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xa5" * 4096)


def post_many(running: RunningDesk, first: int, last: int) -> None:
    for number in range(first, last + 1):
        assert running.post(begin(f"session-{number:05d}"))[0] == 200


@pytest.mark.tools
def test_a_damaged_page_stops_the_follower_before_it_and_nothing_else(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with start("serve", data_dir=data) as desk:
        post_many(desk, 1, 30)
        wait_for_revision(desk, 30)
        assert desk.terminate() == 0
    with start("gateway", data_dir=data) as gateway:
        post_many(gateway, 31, 90)
        assert gateway.terminate() == 0
    overwrite_page(data / "journal.db", "session-00060")
    with start("serve", data_dir=data) as desk:
        problem = desk.wait_for(lambda record: record["event"] == "journal_not_readable")
        assert "damaged: the entry after revision " in str(problem["detail"])
        post_many(desk, 91, 100)
        wait_until(lambda: invoke("health", "service", desk.target).returncode == 1)

        def problem_shown() -> Answer | None:
            status = invoke("status", "--json", target=desk.target)
            shown = json.loads(status.stdout)["follower_problem"]
            return status if shown == problem["detail"] else None

        status = eventually(problem_shown)
        assert 30 < json.loads(status.stdout)["header"]["revision"] < 60
        assert "desk: the follower cannot go on: " in status.stderr
        assert invoke("sessions", "get", "session-00001", target=desk.target).returncode == 0
        assert not lines(desk, "process_died")
        assert desk.terminate() == 0
    answer = invoke("journal", "restore", "--from-view", DESK_DATA_DIR=str(data))
    assert answer.returncode == 1, answer.stderr  # the view had not come so far
    with start("serve", data_dir=data) as desk:
        wait_for_revision(desk, 100)
        eventually(lambda: invoke("health", "service", desk.target).returncode == 0)


def revision_of(url: str, callback: dict[str, object]) -> str | None:
    """Post a callback; return its revision, or None if it was not kept in time."""
    try:
        with urllib.request.urlopen(url, json.dumps(callback).encode(), DEADLINE) as answer:
            return str(answer.headers["Desk-Revision"])
    except urllib.error.HTTPError:  # it is not ready yet, or a busy machine is too late
        return None


@pytest.mark.tools
def test_a_build_that_finds_a_damaged_page_leaves_the_gateway_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with start("gateway", data_dir=data) as gateway:
        post_many(gateway, 1, 60)
        assert gateway.terminate() == 0
    overwrite_page(data / "journal.db", "session-00030")
    with (
        reserved_port() as port,
        start("serve", data_dir=data, DESK_HTTP_LISTEN=f"127.0.0.1:{port}") as desk,
    ):
        desk.wait_for(lambda record: record["event"] == "journal_not_readable")
        desk.wait_for(
            lambda record: record == record | {"event": "process_ready", "name": "gateway"}
        )
        url = f"http://127.0.0.1:{port}/?SdkAppid={SDK_APP_ID}&CallbackCommand=Desk.SessionEventNotify"
        assert eventually(lambda: revision_of(url, begin("after"))) == "61"
        assert not lines(desk, "process_died")

"""A disk that changes what was written: it is found, and the rest goes on."""

import sqlite3
from contextlib import closing
from pathlib import Path

from journal.entry import DAMAGED
from tests.support.commands import invoke
from tests.support.processes import RunningDesk, start

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
        assert status.stderr == "desk: entries of the journal are damaged: see desk journal check\n"

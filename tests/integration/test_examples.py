"""The Python examples of docs/clients.md, run as processes against a real service."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from desk.v1.session_pb2 import Session, SessionState
from service.records import timestamp
from tests.support.callbacks import NOON, life
from tests.support.consumer import (
    assert_copies_resumes_and_starts_over,
    consuming,
    execute,
    position,
    wait_for,
)
from tests.support.feed_server import JOURNAL_ID, Break, FeedServer, records, serving
from tests.support.processes import ROOT, RunningDesk, run, start
from tests.support.waiting import eventually


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[RunningDesk]:
    with start("serve", data_dir=tmp_path / "data") as running:
        yield running


@pytest.mark.tools
def test_the_consumer_resumes_where_it_stopped_and_starts_over_with_another_journal(
    desk: RunningDesk, tmp_path: Path
) -> None:
    assert_copies_resumes_and_starts_over(desk, tmp_path / "sessions.db")


@pytest.mark.tools
def test_the_consumer_deletes_what_is_forgotten_also_while_it_was_away(
    desk: RunningDesk, tmp_path: Path
) -> None:
    database = tmp_path / "sessions.db"
    for session_id in ("a", "b", "c"):
        assert desk.post(life("SessionBegin", session_id=session_id)[0])[0] == 200
    with consuming(desk.target, database):
        wait_for(database, 3, a="CHATBOT", b="CHATBOT", c="CHATBOT")
        assert run("forget", "--session", "a", "--yes", target=desk.target).returncode == 0
        wait_for(database, 4, b="CHATBOT", c="CHATBOT")
    assert run("forget", "--session", "b", "--yes", target=desk.target).returncode == 0
    with consuming(desk.target, database):
        wait_for(database, 5, c="CHATBOT")


def test_the_questions_of_the_manual_are_answered(desk: RunningDesk) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "clients.md").read_text(), re.S)
    session_id = re.findall(r'get_session\("(.*?)"\)', code)[0]
    for callback in life(
        "SessionBegin", "TransferringToHuman", "TransferringToHumanWait", session_id=session_id
    ):
        desk.post(callback)
    code = code.replace("127.0.0.1:50051", desk.target)

    def ask() -> list[str]:
        command = [sys.executable, "-I", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    answers = eventually(lambda: len(found := ask()) == 3 and found)
    assert answers == [
        f"{session_id} {timestamp(NOON).ToJsonString()}",
        "SESSION_STATE_QUEUED 1",
        "SESSION_STATE_QUEUED at revision 3",
    ]


async def test_the_consumer_starts_over_when_its_position_is_no_longer_kept(
    tmp_path: Path,
) -> None:
    database = tmp_path / "sessions.db"
    queued = Session(session_id="a", state=SessionState.SESSION_STATE_QUEUED)
    server = FeedServer(feed=records(1, 1), sessions=[queued])
    async with serving(server) as port:
        target = f"127.0.0.1:{port}"
        with consuming(target, database):
            await asyncio.to_thread(wait_for, database, 2, a="QUEUED")
        execute(database, "INSERT INTO sessions VALUES (1, 'gone', '', '', '')")
        server.breaks = [
            Break(after=0, code=grpc.StatusCode.OUT_OF_RANGE, reason="REVISION_NOT_KEPT")
        ]
        with consuming(target, database):
            await asyncio.to_thread(wait_for, database, 2, a="QUEUED")
    asked = [request.after_revision for request in server.requests if not request.sessions_first]
    assert asked[0] == 2
    assert position(database) == (JOURNAL_ID, 2)

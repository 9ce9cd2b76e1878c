"""The example consumer, run as a process against a real service."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from desk.v1.session_pb2 import Session, SessionState

from tests.support.consumer import (
    assert_copies_and_resumes,
    consuming,
    execute,
    position,
    wait_for,
)
from tests.support.feed_server import JOURNAL_ID, Break, FeedServer, records, serving
from tests.support.processes import RunningDesk, start


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[RunningDesk]:
    with start("serve", data_dir=tmp_path / "data") as running:
        yield running


def test_the_consumer_resumes_where_it_stopped_and_starts_over_with_another_journal(
    desk: RunningDesk, tmp_path: Path
) -> None:
    database = tmp_path / "sessions.db"
    assert_copies_and_resumes(desk, database)
    journal_id, _ = position(database)

    execute(database, f"UPDATE position SET journal_id = '{'0' * 32}'")
    with consuming(desk.target, database):
        wait_for(database, 3, a="TRANSFERRING", b="CHATBOT")
    assert position(database)[0] == journal_id


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

"""ListSubscribers on a real channel: the streams that are open, and how far each is behind."""

import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from desk.v1.board_service_pb2 import WatchBoardRequest
from desk.v1.event_pb2 import EventFilter, EventType
from desk.v1.status_pb2 import ListSubscribersRequest, ListSubscribersResponse
from service.rpc import status_service
from service.rpc.workers import SUFFIX, Workers
from tests.support.callbacks import life
from tests.support.rpc import Worker, World, service, take, until, worker

WHOLE = ("SessionBegin", "ChatBot.UserSendMsg", "TransferringToHuman", "SessionEnd")
LONG = 400
"""Bytes of text that many callbacks need to fill the buffers of a connection."""


async def listed(worker: Worker) -> ListSubscribersResponse:
    answer: ListSubscribersResponse = await worker.status.ListSubscribers(ListSubscribersRequest())
    return answer


async def test_a_stream_that_has_everything_is_not_behind():
    async with service(*life(*WHOLE)) as (_, worker):
        await take(worker.subscribe(after_revision=0))
        answer = await listed(worker)
        (one,) = answer.subscribers
        assert (answer.total, answer.header.revision) == (1, 4)
        assert (one.revision, one.lag, one.lag_time.ToMilliseconds()) == (4, 0, 0)
        assert (one.client, one.address, one.filter) == ("", "127.0.0.1", "verdicts: 2")


async def test_a_stream_whose_filter_selects_nothing_new_is_not_behind():
    async with service(*life(*WHOLE[:1])) as (world, worker):
        types = [EventType.EVENT_TYPE_SESSION_END]
        await take(worker.subscribe(filter=EventFilter(types=types, agent_ids=["someone"])))
        await take(worker.subscribe())
        world.append(*life(*WHOLE)[1:])

        async def reached() -> ListSubscribersResponse | None:
            answer = await listed(worker)
            found = [(one.revision, one.lag) for one in answer.subscribers]
            return answer if found == [(4, 0), (4, 0)] else None

        answer = await until(reached)
        filters = {one.filter for one in answer.subscribers}
        assert filters == {"verdicts: 2", "types: 1, agent_ids: 1, verdicts: 2"}
        assert "someone" not in str(answer)


async def test_a_client_that_does_not_read_falls_behind_and_is_listed_first(
    monkeypatch: pytest.MonkeyPatch,
):
    async with service(*life("SessionBegin")) as (world, worker):
        types = [EventType.EVENT_TYPE_SESSION_END]
        await take(worker.subscribe(filter=EventFilter(types=types)))
        idle = worker.subscribe()
        await take(idle)
        text = {"MsgBody": [{"MsgType": "TIMTextElem", "MsgContent": {"Text": "x" * 8_000}}]}
        steps = life("SessionBegin", *["ChatBot.UserSendMsg"] * LONG, **text)[1:]
        world.append(*steps)
        await worker.revision(LONG)

        async def behind() -> ListSubscribersResponse | None:
            answer = await listed(worker)
            return answer if answer.subscribers[0].lag > 0 else None

        answer = await until(behind)
        first = answer.subscribers[0]
        assert first.revision + first.lag == answer.header.revision
        assert first.lag_time.ToMilliseconds() > 0
        monkeypatch.setattr(status_service, "MAX_SUBSCRIBERS", 1)
        answer = await listed(worker)
        (only,) = answer.subscribers
        assert (answer.total, only.lag > 0) == (2, True)


async def test_a_stream_that_ended_is_no_longer_listed():
    async with service(*life(*WHOLE)) as (_, worker):
        call = worker.subscribe(after_revision=0)
        await take(call)
        call.cancel()

        async def gone() -> bool:
            return not (await listed(worker)).subscribers

        await until(gone)


@asynccontextmanager
async def two_workers() -> AsyncIterator[tuple[World, Worker, Worker, Path]]:
    """Two of three workers of a service, and the folder of their sockets."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, second = (Workers(folder, f"rpc-{number}", 3) for number in (1, 2))
        async with (
            service(*life(*WHOLE), workers=first) as (world, one),
            worker(world, workers=second) as other,
        ):
            yield world, one, other, folder


async def answer_without(worker: Worker, missing: int) -> ListSubscribersResponse:
    """Wait for an answer in which so many workers are missing."""

    async def answer() -> ListSubscribersResponse | None:
        found = await listed(worker)
        return found if found.missing_workers == missing else None

    found: ListSubscribersResponse = await until(answer)
    return found


async def test_each_worker_lists_the_streams_of_all():
    async with two_workers() as (_, one, other, _):
        await take(one.subscribe(after_revision=0))
        for _ in range(2):
            await take(other.subscribe(after_revision=0))
        for asked, name in ((one, "rpc-1"), (other, "rpc-2")):
            answer = await answer_without(asked, missing=1)
            assert (answer.worker, answer.workers, answer.total) == (name, 3, 3)
            workers = [each.worker for each in answer.subscribers]
            assert sorted(workers) == ["rpc-1", "rpc-2", "rpc-2"]


async def test_a_worker_that_hangs_or_has_ended_is_missing():
    async with two_workers() as (_, one, other, folder):
        with socket.socket(socket.AF_UNIX) as hanging:
            hanging.bind(str(folder / f"rpc-3{SUFFIX}"))
            hanging.listen()
            await answer_without(one, missing=1)
        other.stop.set()
        await other.task
        await answer_without(one, missing=2)


async def test_streams_of_a_board_are_no_subscribers():
    async with service(*life(*WHOLE)) as (_, worker):
        board = worker.board.WatchBoard(WatchBoardRequest())
        await board.read()
        answer = await listed(worker)
        assert (answer.total, len(answer.subscribers)) == (0, 0)

"""ListSubscribers on a real channel: the streams that are open, and how far each is behind."""

from desk.v1.event_pb2 import EventFilter, EventType
from desk.v1.status_pb2 import ListSubscribersRequest, ListSubscribersResponse
from tests.support.callbacks import life
from tests.support.rpc import Worker, service, take, until

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


async def test_a_client_that_does_not_read_falls_behind_and_is_listed_first():
    async with service(*life("SessionBegin")) as (world, worker):
        await take(worker.subscribe())
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


async def test_a_stream_that_ended_is_no_longer_listed():
    async with service(*life(*WHOLE)) as (_, worker):
        call = worker.subscribe(after_revision=0)
        await take(call)
        call.cancel()

        async def gone() -> bool:
            return not (await listed(worker)).subscribers

        await until(gone)

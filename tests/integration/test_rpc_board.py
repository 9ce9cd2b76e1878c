"""BoardService on a real channel: now, live, corrected by late callbacks, within its limits."""

import asyncio
import threading
from contextlib import aclosing, closing
from datetime import UTC
from typing import Any

import grpc
import pytest

from desk.client import Client
from desk.v1.board_service_pb2 import (
    Board,
    BoardOptions,
    GetBoardRequest,
    WatchBoardRequest,
    WatchBoardResponse,
)
from desk.v1.figures_pb2 import Thresholds
from desk.v1.session_pb2 import SessionState
from journal.entry import unnumbered
from service.board import BoardSelection
from service.records import duration
from service.rpc.limits import Limits
from service.rpc.live_board import Centre, LiveBoard, ViewSums
from service.view.readers import Pool
from tests.support.callbacks import APP, NOON, body, entry, life
from tests.support.loopback import reserved_port
from tests.support.rpc import (
    PATIENCE,
    Worker,
    fields,
    reason,
    refusal,
    service,
    until,
    world,
)
from tests.support.rpc import worker as worker_of

QUEUE = ("SessionBegin", "TransferringToHuman", "TransferringToHumanWait")
TALK = (*QUEUE, "TransferToHumanSuccess", "Human.UserSendMsg")
OVER = (*TALK, "SessionUserEnd", "SessionEnd")
LEFT = (*QUEUE, "SessionPendingAutoFinishEnd", "SessionEnd")

QUICK = Limits(board_seconds=0.02, checkpoint_seconds=(30.0, 30.0))


CENTRE = Centre(UTC, now=lambda: NOON + 100_000)


async def board(worker: Worker, **options: Any) -> Board:
    answer = await worker.board.GetBoard(GetBoardRequest(options=BoardOptions(**options)))
    return answer.board


def a_day() -> list[bytes]:
    """One waits, one talks with ann, one was answered and is over, one has given up."""
    return [
        *life(*QUEUE, session_id="waits"),
        *life(*TALK, session_id="talks", start=NOON + 1_000, AgentId="ann", ChannelType="Web"),
        *life(*OVER, session_id="over", start=NOON - 60_000, AgentId="bob"),
        *life(*LEFT, session_id="left", start=NOON - 30_000),
    ]


async def test_the_board_says_who_waits_and_how_the_day_has_been():
    async with service(*a_day(), centre=CENTRE) as (_, worker):
        found = await board(worker)
        assert (found.total.waiting, found.total.unanswered) == (1, 1)
        assert [each.session_id for each in found.longest_waiting] == ["waits"]
        [waits] = found.longest_waiting
        assert waits.since.ToMilliseconds() == NOON + 10_000
        assert waits.breaches_at.ToMilliseconds() == NOON + 40_000
        assert [each.session_id for each in found.longest_unanswered] == ["talks"]
        [ann] = found.agents
        assert (ann.agent_id, ann.sessions, ann.unanswered) == ("ann", 1, 1)
        today = found.total.today
        assert (today.offered, today.waiting, today.answered, today.abandoned) == (4, 1, 2, 1)
        assert today.service_level == 2 / 3
        assert today.speed_of_answer.mean == duration(20_000)
        states = {each.state: each.sessions for each in found.total.states}
        queued, talking = SessionState.SESSION_STATE_QUEUED, SessionState.SESSION_STATE_WITH_AGENT
        assert states == {queued: 1, talking: 1}


async def test_groups_are_those_of_the_selected_apps_and_channels():
    async with service(*a_day(), centre=CENTRE) as (world, worker):
        world.append(*life(*QUEUE, session_id="other"), app=APP + 1)
        await worker.revision(world.journal.head())
        found = await board(worker)
        groups = [(each.sdk_app_id, each.channel_type) for each in found.groups]
        assert groups == [(APP, "SDK"), (APP, "Web"), (APP + 1, "SDK")]
        web = await board(worker, channel_types=["Web"])
        assert (web.total.waiting, web.total.today.answered) == (0, 1)
        other = await board(worker, sdk_app_ids=[APP + 1])
        assert [each.session_id for each in other.longest_waiting] == ["other"]


async def test_other_thresholds_give_another_service_level():
    async with service(*a_day(), centre=CENTRE) as (_, worker):
        strict = Thresholds(answer_within=duration(19_999), short_abandon=duration(60_000))
        found = await board(worker, thresholds=strict)
        assert found.total.today.service_level == 0
        assert found.total.today.short_abandons == 1
        assert found.thresholds.answer_percent == 80


async def test_a_late_callback_corrects_the_day():
    async with service(*a_day(), centre=CENTRE) as (world, worker):
        late = body("TransferToHumanSuccess", NOON - 5_000, session_id="left", AgentId="eve")
        await worker.revision(world.append(late))
        today = (await board(worker)).total.today
        assert (today.answered, today.abandoned) == (3, 0)


async def test_what_is_forgotten_leaves_the_board():
    async with service(*a_day(), centre=CENTRE) as (world, worker):
        assert (await board(worker)).total.waiting == 1
        await worker.revision(world.forget("waits"))
        found = await board(worker)
        assert (found.total.waiting, found.total.today.offered) == (0, 3)


async def test_a_day_that_is_over_leaves_what_is_open():
    time = NOON + 100_000
    async with service(*a_day(), centre=Centre(UTC, now=lambda: time)) as (_, worker):
        assert (await board(worker)).total.today.offered == 4
        time += 86_400_000
        found = await board(worker)
        assert (found.total.waiting, found.total.today.offered) == (1, 0)
        assert found.day_start.ToMilliseconds() == NOON + 40_800_000


async def test_a_session_whose_end_was_lost_leaves_the_board_after_a_day():
    time = NOON + 100_000
    async with service(*a_day(), centre=Centre(UTC, now=lambda: time)) as (world, worker):
        assert (await board(worker)).total.waiting == 1
        time += 2 * 86_400_000
        found = await board(worker)
        assert (found.total.waiting, found.agent_count, list(found.groups)) == (0, 0, [])
        spoken = body("Human.UserSendMsg", time, session_id="waits")
        await worker.revision(world.append(unnumbered(entry(1, spoken, received_at=time))))
        assert (await board(worker)).total.waiting == 1


async def test_who_was_answered_and_waits_again_has_no_time_to_breach():
    again = ("AgentForward", "TransferringToHuman")
    async with service(*life(*TALK, *again, AgentId="ann"), centre=CENTRE) as (_, worker):
        found = await board(worker)
        [waits] = found.longest_waiting
        assert waits.since.ToMilliseconds() == NOON + 60_000
        assert not waits.HasField("breaches_at")
        assert (found.total.today.answered, found.total.today.waiting) == (1, 0)


async def test_a_board_is_streamed_at_once_and_after_each_change():
    async with service(*a_day(), centre=CENTRE, limits=QUICK) as (world, worker):
        stream = worker.board.WatchBoard(WatchBoardRequest())
        first = await stream.read()
        assert (first.header.revision, first.board.total.waiting) == (world.journal.head(), 1)
        revision = world.append(body("SessionUserEnd", NOON + 50_000, session_id="waits"))
        second = await stream.read()
        assert (second.header.revision, second.board.total.waiting) == (revision, 0)
        stream.cancel()


async def test_what_changes_nothing_is_not_streamed_before_its_time():
    limits = Limits(board_seconds=0.02, checkpoint_seconds=(0.5, 0.5))
    async with service(*a_day(), centre=CENTRE, limits=limits) as (_, worker):
        clock = asyncio.get_running_loop().time
        began = clock()  # before the service sends the first one
        stream = worker.board.WatchBoard(WatchBoardRequest())
        first: WatchBoardResponse = await stream.read()
        assert await stream.read() == first  # a sign of life
        assert clock() - began > 0.3
        stream.cancel()


async def test_streams_end_when_the_server_shuts_down():
    async with service(*a_day(), centre=CENTRE) as (_, worker):
        stream = worker.board.WatchBoard(WatchBoardRequest())
        await stream.read()
        worker.stop.set()
        error = await refusal(_rest(stream))
        assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")


async def test_streams_that_are_left_are_forgotten():
    async with service(*a_day(), centre=CENTRE, limits=QUICK) as (_, worker):
        for _ in range(30):
            stream = worker.board.WatchBoard(WatchBoardRequest())
            await stream.read()
            stream.cancel()

        async def none() -> bool:
            return await worker.subscribers() == 0

        await until(none)


async def test_more_sessions_than_a_board_can_have_are_refused():
    async with service(*a_day(), centre=CENTRE, limits=Limits(board_sessions=3)) as (_, worker):
        for _ in range(2):
            error = await refusal(worker.board.GetBoard(GetBoardRequest()))
            assert reason(error) == "TOO_MANY_SESSIONS"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (BoardOptions(sdk_app_ids=[0]), "options.sdk_app_ids"),
        (BoardOptions(max_listed=-1), "options.max_listed"),
        (
            BoardOptions(thresholds=Thresholds(answer_percent=101)),
            "options.thresholds.answer_percent",
        ),
        (
            BoardOptions(thresholds=Thresholds(short_abandon=duration(86_400_001))),
            "options.thresholds.short_abandon",
        ),
    ],
)
async def test_a_wrong_option_is_named(options: BoardOptions, field: str):
    async with service() as (_, worker):
        request = GetBoardRequest(options=options)
        assert fields(await refusal(worker.board.GetBoard(request))) == [field]


async def _rest(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass
    raise AssertionError(await stream.code())


async def test_a_call_that_is_left_early_does_not_disturb_the_others():
    async with service(*a_day(), centre=CENTRE) as (_, worker):
        calls = [worker.board.GetBoard(GetBoardRequest()) for _ in range(40)]
        for each in calls[::2]:
            each.cancel()
        answers = await asyncio.gather(*calls[1::2])
        assert {each.board.total.waiting for each in answers} == {1}
        assert (await board(worker)).total.today.offered == 4


async def test_many_boards_of_one_caller_do_not_keep_another_waiting():
    first_board = threading.Event()
    order: list[str] = []

    def now() -> int:
        first_board.wait(PATIENCE)
        return NOON + 100_000

    async def ask(boards: LiveBoard, caller: str, rows: int) -> None:
        selection = BoardSelection(frozenset(), frozenset(), CENTRE.thresholds, rows)
        await boards.show(caller, selection, not_before=0.0)
        order.append(caller)

    with world(a_day()) as made:
        made.wait()
        with closing(Pool(made.view, 1)) as pool:
            boards = LiveBoard(pool, ViewSums(Centre(UTC, now=now), 100))
            asked = [asyncio.create_task(ask(boards, "many", rows)) for rows in range(1, 41)]
            asked.append(asyncio.create_task(ask(boards, "other", 100)))
            await asyncio.sleep(0)  # now all of them wait for their turns
            first_board.set()
            await asyncio.gather(*asked)
    assert order.index("other") < 5


async def test_a_client_goes_on_watching_when_the_service_is_restarted():
    with reserved_port() as port, world(a_day()) as made:
        made.wait()
        async with worker_of(made, port=port, centre=CENTRE, limits=QUICK) as serving:
            client = Client(f"127.0.0.1:{port}", reconnect_delay=0.02)
            async with client, aclosing(client.watch_board()) as boards:
                assert (await anext(boards)).board.total.waiting == 1
                serving.stop.set()
                await serving.task
                revision = made.append(body("SessionUserEnd", NOON + 50_000, session_id="waits"))
                made.wait()
                async with worker_of(made, port=port, centre=CENTRE, limits=QUICK):
                    found = await anext(boards)
                    assert (found.revision, found.board.total.waiting) == (revision, 0)

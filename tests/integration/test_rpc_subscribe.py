"""Subscribe on a real channel: order, completeness, resumption, control messages, limits."""

import asyncio
from typing import Any

import grpc
import pytest

from desk.v1.event_pb2 import EventFilter, EventType, Verdict
from desk.v1.event_service_pb2 import SubscribeResponse
from desk.v1.session_pb2 import SessionState
from desk.v1.session_service_pb2 import GetSessionRequest
from service.rpc.limits import Limits
from tests.support.callbacks import APP, NOON, SESSION, body, life
from tests.support.rpc import (
    Worker,
    fields,
    places,
    reason,
    records,
    refusal,
    service,
    take,
    until,
    worker,
    world,
)

RING_BYTES = 8 * 1024 * 1024

WHOLE = ("SessionBegin", "ChatBot.UserSendMsg", "TransferringToHuman", "SessionEnd")
LATE = (
    "SessionBegin",
    "TransferringToHuman",
    "TransferringToHumanWait",
    "TransferToHumanSuccess",
    "Human.AgentSendMsg",
    "SessionEnd",
)


def kinds(messages: list[SubscribeResponse]) -> list[str]:
    return [message.WhichOneof("content") or "" for message in messages]


async def caught_up(call: Any) -> list[SubscribeResponse]:
    return await take(call, until="caught_up")


async def following(call: Any, count: int) -> list[SubscribeResponse]:
    """Read until that many records have come."""
    got: list[SubscribeResponse] = []
    while len(records(got)) < count:
        got += await take(call, until="records")
    return got


async def test_a_stream_from_zero_has_everything_and_then_what_comes():
    async with service(*life(*WHOLE[:2])) as (world, worker):
        call = worker.subscribe(after_revision=0)
        assert places(await caught_up(call)) == [(1, 0), (2, 0)]
        world.append(*life(*WHOLE)[2:])
        assert places(await following(call, 2)) == [(3, 0), (4, 0)]


async def test_a_stream_from_now_says_at_once_where_it_begins():
    async with service(*life(*WHOLE[:2])) as (world, worker):
        call = worker.subscribe()
        (first,) = await caught_up(call)
        assert (first.header.revision, first.header.journal_id) == (2, world.journal.id)
        world.append(*life(*WHOLE)[2:3])
        assert places(await following(call, 1)) == [(3, 0)]


async def test_every_message_carries_the_revision_to_resume_after():
    async with service(*life(*WHOLE)) as (world, worker):
        got = await caught_up(worker.subscribe(after_revision=0, max_batch=1))
        assert [message.header.revision for message in got] == [1, 2, 3, 4, 4]
        for revision in range(5):
            call = worker.subscribe(after_revision=revision, journal_id=world.journal.id)
            resumed = await caught_up(call)
            assert places(resumed) == [(n, 0) for n in range(revision + 1, 5)]


def late_and_revised() -> list[bytes]:
    """Everything is rejected for want of a beginning, until it comes."""
    bodies = life(*LATE)
    return [*bodies[1:], bodies[0]]


async def test_revised_verdicts_come_in_the_message_of_the_revision_that_changed_them():
    async with service(*late_and_revised()) as (_, worker):
        verdicts = [Verdict.VERDICT_ACCEPTED, Verdict.VERDICT_REJECTED]
        call = worker.subscribe(
            after_revision=0, max_batch=1, filter=EventFilter(verdicts=verdicts)
        )
        got = (await caught_up(call))[:-1]
        assert [len(message.records.records) for message in got] == [1, 1, 1, 1, 1, 6]
        assert [record.ordinal for record in got[-1].records.records] == [0, 1, 2, 3, 4, 5]
        assert [record.revised for record in got[-1].records.records] == [False] + [True] * 5


async def test_the_session_of_a_revised_record_is_the_session_after_its_revision():
    async with service(*late_and_revised()) as (_, worker):
        call = worker.subscribe(after_revision=0, include_session=True)
        for record in records(await caught_up(call)):
            request = GetSessionRequest(session_id=SESSION, as_of_revision=record.revision)
            answer = await worker.sessions.GetSession(request)
            assert record.session == answer.session
            assert record.session_state == answer.session.state


async def test_live_records_carry_the_session_too():
    async with service() as (world, worker):
        call = worker.subscribe(include_session=True)
        await caught_up(call)
        world.append(*late_and_revised())
        got = records(await following(call, 6))
        assert {record.session.state for record in got} == {SessionState.SESSION_STATE_ENDED}


async def test_without_being_asked_rejections_are_not_shown_but_their_acceptance_is():
    async with service(*late_and_revised()) as (_, worker):
        got = await caught_up(worker.subscribe(after_revision=0))
        assert places(got) == [(6, ordinal) for ordinal in range(6)]
        assert {record.verdict for record in records(got)} == {Verdict.VERDICT_ACCEPTED}


async def test_a_filter_lets_through_what_it_selects_live_and_later():
    other = life(*WHOLE, session_id="other", start=NOON + 1, ClientUserId="user-2")
    async with service() as (world, worker):
        selections = [
            EventFilter(session_ids=["other"]),
            EventFilter(client_user_ids=["user-2"], types=[EventType.EVENT_TYPE_SESSION_END]),
            EventFilter(sdk_app_ids=[1]),
        ]
        live = [worker.subscribe(filter=each) for each in selections]
        for call in live:
            await caught_up(call)
        world.append(*(each for pair in zip(life(*WHOLE), other, strict=True) for each in pair))
        expected = [[(2, 0), (4, 0), (6, 0), (8, 0)], [(8, 0)], []]
        assert places(await following(live[0], 4)) == expected[0]
        assert places(await following(live[1], 1)) == expected[1]
        for selection, wanted in zip(selections, expected, strict=True):
            call = worker.subscribe(after_revision=0, filter=selection)
            assert places(await caught_up(call)) == wanted


async def test_one_session_id_under_two_apps_is_two_sessions_of_the_feed():
    pairs = [(each, app) for each in life(*WHOLE) for app in (APP, 7)]
    with world() as made:
        for each, app in pairs[:4]:
            made.append(each, app=app)
        made.wait()  # what the worker finds there is read from the view, what comes later is not
        async with worker(made, apps=(APP, 7)) as serving:
            calls = {}
            for app, stored in ((APP, [1, 3]), (7, [2, 4])):
                selection = EventFilter(session_ids=[SESSION], sdk_app_ids=[app])
                calls[app] = serving.subscribe(after_revision=0, filter=selection)
                assert places(await caught_up(calls[app])) == [(n, 0) for n in stored]
            for each, app in pairs[4:]:
                made.append(each, app=app)
            for app, live in ((APP, [5, 7]), (7, [6, 8])):
                assert places(await following(calls[app], 2)) == [(n, 0) for n in live]


async def test_one_revision_larger_than_a_message_comes_in_parts_that_can_be_resumed():
    """30 verdicts of ~100 KB are changed by one late event."""
    text = [{"MsgType": "TIMTextElem", "MsgContent": {"Text": "x" * 50_000}}]
    bodies = [
        body("ChatBot.UserSendMsg", NOON + n, MsgBody=text, MsgKey=f"k{n}") for n in range(30)
    ]
    async with service(*bodies) as (world, worker):
        live = worker.subscribe()
        await caught_up(live)
        world.append(body("SessionBegin", NOON))
        for call in (live, worker.subscribe(after_revision=30)):
            got = await following(call, 31)
            assert places(got) == [(31, ordinal) for ordinal in range(31)]
            parts = [message for message in got if message.records.records]
            assert len(parts) > 1
            assert all(message.ByteSize() <= 1024 * 1024 + 1_000 for message in parts)
            assert [message.header.revision for message in parts[:-1]] == [30] * len(parts[:-1])
            end = await take(call)
            assert end[-1].header.revision == 31


@pytest.mark.parametrize("with_session", [True, False])
async def test_a_feed_that_is_read_in_many_parts_comes_in_order_and_once(with_session: bool):
    limits = Limits(part_bytes=(2_000, 2_000))
    bodies = [each for n in range(20) for each in life(*WHOLE, session_id=f"s{n}")]
    async with service(*bodies, *late_and_revised(), limits=limits) as (_, worker):
        everything = EventFilter(verdicts=[Verdict.VERDICT_ACCEPTED, Verdict.VERDICT_REJECTED])
        call = worker.subscribe(
            after_revision=0, filter=everything, max_batch=3, include_session=with_session
        )
        got = await caught_up(call)
        revised = [(86, ordinal) for ordinal in range(6)]
        assert places(got) == [(n, 0) for n in range(1, 86)] + revised


async def test_checkpoints_come_though_the_filter_lets_nothing_through():
    limits = Limits(checkpoint_seconds=(0.2, 0.3))
    async with service(*life(*WHOLE), limits=limits) as (world, worker):
        call = worker.subscribe(filter=EventFilter(session_ids=["nobody"]))
        await caught_up(call)
        last = world.append(*life(*WHOLE, session_id="more"))
        while (await take(call, until="checkpoint"))[-1].header.revision < last:
            pass


async def test_sessions_come_first_and_then_what_changes_them():
    bodies = [*life(*WHOLE[:3]), *life(*WHOLE[:2], session_id="other")]
    async with service(*bodies) as (world, worker):
        call = worker.subscribe(sessions_first=True)
        got = await caught_up(call)
        assert kinds(got) == ["sessions", "caught_up"]
        assert got[0].sessions.complete
        assert got[0].header.revision == 5
        assert sorted(s.session_id for s in got[0].sessions.sessions) == [SESSION, "other"]
        world.append(life(*WHOLE)[3])
        assert places(await following(call, 1)) == [(6, 0)]


async def test_the_sessions_that_come_first_are_those_of_the_filter():
    bodies = [*life(*WHOLE[:3]), *life(*WHOLE[:2], session_id="other", ClientUserId="user-2")]
    async with service(*bodies) as (_, worker):
        for selection, expected in (
            (EventFilter(session_ids=["other"]), ["other"]),
            (EventFilter(client_user_ids=["user-1"]), [SESSION]),
            (EventFilter(agent_ids=["nobody"]), []),
        ):
            got = await take(
                worker.subscribe(sessions_first=True, filter=selection), until="sessions"
            )
            assert [s.session_id for s in got[0].sessions.sessions] == expected
            assert got[0].sessions.complete


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"after_revision": -1}, "after_revision"),
        ({"max_batch": -1}, "max_batch"),
        ({"sessions_first": True, "after_revision": 0}, "sessions_first"),
        ({"filter": EventFilter(types=[99])}, "filter.types"),
        ({"filter": EventFilter(verdicts=[9])}, "filter.verdicts"),
        ({"filter": EventFilter(verdicts=[-1])}, "filter.verdicts"),
        ({"filter": EventFilter(session_ids=["s"] * 101)}, "filter.session_ids"),
    ],
)
async def test_a_subscription_that_makes_no_sense_names_the_field(request_, field):
    async with service() as (_, worker):
        error = await refusal(worker.subscribe(**request_))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (reason(error), fields(error)) == ("INVALID_REQUEST", [field])


async def test_another_journals_revision_is_refused_and_the_error_says_what_to_do():
    async with service() as (world, worker):
        error = await refusal(worker.subscribe(after_revision=0, journal_id="0" * 32))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert reason(error) == "JOURNAL_MISMATCH"
        for part in ("0" * 32, world.journal.id, "sessions_first", "checkpoint file"):
            assert part in str(error.details())


async def test_a_revision_that_comes_in_time_is_waited_for():
    async with service() as (world, worker):
        call = worker.subscribe(after_revision=2)
        await until(lambda: asyncio.sleep(0, result=True))
        world.append(*life(*WHOLE[:3]))
        assert places(await following(call, 1)) == [(3, 0)]


async def test_a_revision_that_does_not_come_is_refused():
    async with service(limits=Limits(revision_seconds=0.2)) as (_, worker):
        error = await refusal(worker.subscribe(after_revision=1))
        assert error.code() is grpc.StatusCode.OUT_OF_RANGE
        assert reason(error) == "REVISION_IN_FUTURE"


async def test_a_revision_of_a_replica_that_is_ahead_may_be_asked_for_again():
    async with service(limits=Limits(revision_seconds=0.2)) as (world, worker):
        error = await refusal(worker.subscribe(after_revision=1, journal_id=world.journal.id))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert reason(error) == "REVISION_NOT_REACHED"


async def test_what_is_no_longer_kept_is_refused_never_skipped():
    async with service(*life(*WHOLE)) as (world, worker):
        world.edit(
            "DELETE FROM feed WHERE position < 3 << 20;"
            "UPDATE progress SET oldest_revision = 3, begins_at = 3"
        )
        error = await refusal(worker.subscribe(after_revision=1))
        assert error.code() is grpc.StatusCode.OUT_OF_RANGE
        assert reason(error) == "REVISION_NOT_KEPT"
        assert places(await caught_up(worker.subscribe(after_revision=2))) == [(3, 0), (4, 0)]
        assert places(await caught_up(worker.subscribe(after_revision=0))) == [(3, 0), (4, 0)]
        request = GetSessionRequest(session_id=SESSION, as_of_revision=1)
        assert reason(await refusal(worker.sessions.GetSession(request))) == "REVISION_NOT_KEPT"


async def test_more_streams_than_allowed_are_refused():
    async with service(limits=Limits(streams=4)) as (_, worker):
        calls = [worker.subscribe(), worker.subscribe()]
        for call in calls:
            await caught_up(call)
        error = await refusal(worker.subscribe())
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason(error) == "TOO_MANY_STREAMS"
        calls[0].cancel()
        await until(lambda: fewer(worker, 2))
        await caught_up(worker.subscribe())


async def fewer(worker: Worker, than: int) -> bool:
    return await worker.subscribers() < than


def heavy(count: int, start: int = 0) -> list[bytes]:
    """Callbacks whose records have ~400 KB."""
    text = [{"MsgType": "TIMTextElem", "MsgContent": {"Text": "x" * 200_000}}]
    return [
        body("ChatBot.UserSendMsg", NOON + 10_000 + n, MsgKey=f"k{n}", MsgBody=text)
        for n in range(start, start + count)
    ]


async def test_a_client_that_stops_reading_harms_nobody_and_misses_nothing():
    count = 2 * RING_BYTES // 400_000 // 4 * 4
    limits = Limits(ring_bytes=RING_BYTES)
    async with service(*life("SessionBegin"), limits=limits) as (world, worker):
        other = worker.connect()
        lazy, busy = worker.subscribe(other), worker.subscribe()
        await caught_up(lazy)
        await caught_up(busy)
        seen: list[SubscribeResponse] = []
        for start in range(0, count, 4):
            world.append(*heavy(4, start))
            seen += await following(busy, 4)
        assert places(seen) == [(n, 0) for n in range(2, count + 2)]
        got: list[SubscribeResponse] = []
        while len(records(got)) < count or kinds(got)[-1] != "caught_up":
            got += await take(lazy, until="caught_up")
        assert places(got) == places(seen)
        assert kinds(got).count("fell_behind") == 1
        lazy.cancel()
        await other.close()


async def test_a_client_that_vanishes_while_it_is_written_to_leaves_nothing_behind():
    async with service(*life("SessionBegin"), *heavy(20)) as (_, worker):
        channels = [worker.connect() for _ in range(5)]
        calls = [worker.subscribe(channel, after_revision=0) for channel in channels]
        await until(lambda: all_there(worker, 5))
        for call in calls[:2]:
            call.cancel()
        for channel in channels:
            await channel.close()
        await until(lambda: fewer(worker, 1))


async def all_there(worker: Worker, count: int) -> bool:
    return await worker.subscribers() == count


@pytest.mark.tools
async def test_two_thousand_idle_streams_are_held_by_one_worker():
    async with service() as (world, worker):
        channels = [worker.connect() for _ in range(4)]
        calls = []
        for _ in range(20):  # gRPC cancels a call that is not taken up within 30 s
            opened = [worker.subscribe(channel) for channel in channels for _ in range(25)]
            await asyncio.gather(*map(caught_up, opened))
            calls += opened
        assert await worker.subscribers() == 2_000
        world.append(*life("SessionBegin"))
        got = await asyncio.gather(*(following(call, 1) for call in calls))
        assert {tuple(places(each)) for each in got} == {((1, 0),)}
        for channel in channels:
            await channel.close()
        await until(lambda: fewer(worker, 1))


async def test_an_old_stream_is_closed_for_the_client_to_resume():
    limits = Limits(stream_seconds=(0.2, 0.2), checkpoint_seconds=(0.1, 0.1))
    async with service(*life(*WHOLE), limits=limits) as (_, worker):
        error = await refusal(worker.subscribe(after_revision=0))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert reason(error) == "SHUTTING_DOWN"


async def test_rows_that_the_ring_loses_before_they_are_announced_are_not_skipped():
    ring_bytes = 2 * 1024 * 1024
    limits = Limits(round_seconds=(0.5, 0.5), ring_bytes=ring_bytes)
    count = 2 * ring_bytes // 400_000
    async with service(*life("SessionBegin"), limits=limits) as (world, worker):
        call = worker.subscribe()
        await caught_up(call)
        world.append(*heavy(1))  # begins a round; those after it have to wait for the next
        seen = await following(call, 1)
        for start in range(1, count):
            world.append(*heavy(1, start))
        seen += await following(call, count - 1)
        assert places(seen) == [(n, 0) for n in range(2, count + 2)]

"""Forgotten sessions on a real channel: streams, resumption, questions, and calls that wait."""

import asyncio
import json
from contextlib import aclosing
from typing import Any

import grpc
import pytest

from desk.client import Client, Update
from desk.v1.event_pb2 import EventFilter, EventType, Verdict
from desk.v1.event_service_pb2 import SubscribeResponse
from desk.v1.session_pb2 import SessionState
from desk.v1.session_service_pb2 import (
    BatchGetSessionsRequest,
    ExplainSessionRequest,
    GetSessionRequest,
    WaitForStateRequest,
)
from service.rpc.limits import Limits
from tests.support.callbacks import APP, body, life
from tests.support.processes import run
from tests.support.proxy import proxy
from tests.support.rpc import (
    began,
    metadata,
    places,
    reason,
    records,
    refusal,
    service,
    take,
)

TWO = ("SessionBegin", "ChatBot.UserSendMsg")
ANN, BOB = (life(*TWO, session_id=name, AgentId=name) for name in ("ann", "bob"))
MIXED = [ANN[0], BOB[0], ANN[1], BOB[1]]
QUIET = Limits(checkpoint_seconds=(60.0, 60.0))
"""No checkpoint comes only because nothing else does."""


def told(messages: list[SubscribeResponse]) -> list[tuple[int, list[str], list[int]]]:
    """Return what some messages say was forgotten: at which revision, sessions, malformed ones."""
    every = [each.forgotten for each in messages if each.HasField("forgotten")]
    return [
        (each.revision, list(each.session_ids), list(each.malformed_revisions)) for each in every
    ]


async def caught_up(call: Any) -> list[SubscribeResponse]:
    return await take(call, until="caught_up")


async def test_a_live_stream_is_told_in_order_and_goes_on():
    async with service(*MIXED) as (world, worker):
        call = worker.subscribe(after_revision=0)
        assert places(await caught_up(call)) == [(1, 0), (2, 0), (3, 0), (4, 0)]
        world.append(b"not JSON")
        assert world.forget("ann", "nobody", revisions=[5], up_to=5) == 6
        world.append(*life("SessionBegin", session_id="cid"))
        got = await take(call, until="forgotten") + await take(call, until="records")
        forgotten = got[-2].forgotten
        assert told(got) == [(6, ["ann", "nobody"], [5])]
        assert (forgotten.revision, forgotten.sdk_app_id) == (6, APP)
        assert got[-2].header.revision == 6
        assert places(got) == [(7, 0)]


async def test_a_stream_that_catches_up_has_a_feed_with_holes_and_is_told():
    async with service(*MIXED) as (world, worker):
        world.forget("ann", up_to=3)
        await worker.revision(5)
        expected = {1: [2, 4], 2: [4], 3: [4], 4: [], 5: []}
        for after, kept in expected.items():
            call = worker.subscribe(after_revision=after, skip_forgotten=True, max_batch=1)
            got = await caught_up(call)
            assert [record.revision for record in records(got)] == kept
            assert told(got) == ([(5, ["ann"], [])] if after < 5 else [])
            assert got[-1].header.revision == 5


async def test_a_stream_resumed_anywhere_is_told_exactly_once():
    async with service(*MIXED) as (world, worker):
        world.forget("ann", up_to=3)
        world.append(*life("SessionBegin", session_id="cid"))
        world.forget("bob", up_to=4)
        await worker.revision(7)
        whole = await caught_up(worker.subscribe(skip_forgotten=True, after_revision=0))
        assert told(whole) == [(5, ["ann"], []), (7, ["bob"], [])]
        for count in range(1, len(whole)):
            after = whole[count - 1].header.revision
            rest = await caught_up(worker.subscribe(skip_forgotten=True, after_revision=after))
            assert told(whole[:count]) + told(rest) == told(whole)
            assert places(whole[:count]) + places(rest) == places(whole)


async def test_a_stream_resumed_from_before_what_is_forgotten_must_accept_that():
    async with service(*MIXED) as (world, worker):
        world.forget("ann", up_to=3)
        await worker.revision(5)
        error = await refusal(worker.subscribe(after_revision=2))
        assert error.code() is grpc.StatusCode.OUT_OF_RANGE
        assert reason(error) == "REVISION_NOT_KEPT"
        assert metadata(error) == {"oldest_revision": "4", "journal_id": world.journal.id}
        assert "skip_forgotten" in (error.details() or "")
        assert places(await caught_up(worker.subscribe(after_revision=3))) == [(4, 0)]
        for skips in (False, True):
            every = worker.subscribe(after_revision=0, skip_forgotten=skips)
            got = await caught_up(every)
            assert places(got) == [(2, 0), (4, 0)], "all that is kept"
            assert told(got) == [(5, ["ann"], [])]


async def test_an_entry_that_does_not_say_how_far_it_reaches_may_reach_up_to_itself():
    async with service(*MIXED) as (world, worker):
        world.forget("ann")
        await worker.revision(5)
        assert reason(await refusal(worker.subscribe(after_revision=3))) == "REVISION_NOT_KEPT"
        assert told(await caught_up(worker.subscribe(after_revision=4))) == [(5, ["ann"], [])]


ALL = [Verdict.VERDICT_ACCEPTED, Verdict.VERDICT_REJECTED, Verdict.VERDICT_UNRECOGNISED]


@pytest.mark.parametrize(
    ("asked", "is_told"),
    [
        (EventFilter(session_ids=["ann"]), True),
        (EventFilter(session_ids=["bob", "cid"]), False),
        (EventFilter(sdk_app_ids=[APP]), True),
        (EventFilter(sdk_app_ids=[APP + 1]), False),
        (EventFilter(sdk_app_ids=[APP + 1], session_ids=["ann"]), False),
        (EventFilter(agent_ids=["zoe"], types=[EventType.EVENT_TYPE_SESSION_END]), True),
        (EventFilter(verdicts=[Verdict.VERDICT_REJECTED]), True),
        (EventFilter(session_ids=[""], verdicts=ALL), True),
    ],
)
async def test_every_filter_that_could_have_shown_a_session_is_told_and_no_other(
    asked: EventFilter, is_told: bool
):
    async with service(*MIXED, limits=QUIET) as (world, worker):
        live = worker.subscribe(filter=asked)
        await caught_up(live)
        world.forget("ann", up_to=3)
        # Whoever is told nothing gets a revision from which to resume.
        got = await take(live, until="forgotten" if is_told else "checkpoint")
        assert [each.header.revision for each in got] == [5]
        again = worker.subscribe(filter=asked, after_revision=0, skip_forgotten=True)
        assert bool(told(await caught_up(again))) == is_told


async def test_a_live_stream_is_not_caught_by_the_cut():
    async with service(*MIXED, limits=QUIET) as (world, worker):
        idle = EventFilter(session_ids=["nobody"])
        live = worker.subscribe(filter=idle, after_revision=0)
        await caught_up(live)
        world.append(*life("SessionBegin", session_id="cid"))
        world.forget("cid", up_to=5)
        (checkpoint,) = await take(live, until="checkpoint")
        resumed = worker.subscribe(filter=idle, after_revision=checkpoint.header.revision)
        assert (await caught_up(resumed))[-1].header.revision == 6


async def test_a_client_whose_stream_broke_is_not_caught_by_the_cut():
    async with service(*MIXED, limits=QUIET) as (world, worker):
        idle = EventFilter(session_ids=["nobody"])
        with proxy(worker.port) as way:
            async with (
                Client(f"127.0.0.1:{way.port}", reconnect_delay=0.01) as client,
                aclosing(client.subscribe(event_filter=idle)) as updates,
            ):
                assert (await anext(updates)).revision == 4
                way.stall()
                world.append(*life("SessionBegin", session_id="cid"))
                world.forget("cid", up_to=5)
                await worker.revision(6)
                way.cut()
                way.flow()
                resumed = await anext(updates)
    assert (resumed.revision, resumed.resumed) == (6, True)


async def test_records_in_memory_are_forgotten_too():
    async with service() as (world, worker):
        live = worker.subscribe()
        await caught_up(live)  # from here on, the worker has all records in memory
        world.append(*MIXED)
        await take(live, until="records")
        world.forget("ann", up_to=3)
        await take(live, until="forgotten")
        late = worker.subscribe(after_revision=0, skip_forgotten=True)
        got = await caught_up(late)
        assert [record.revision for record in records(got)] == [2, 4]
        assert told(got) == [(5, ["ann"], [])]


async def test_an_explanation_ends_if_its_session_is_forgotten_between_two_pages():
    async with service(*MIXED) as (world, worker):
        request = ExplainSessionRequest(session_id="ann", page_size=1)
        first = await worker.sessions.ExplainSession(request)
        world.forget("ann", up_to=3)
        await worker.revision(5)
        request.page_token = first.next_page_token
        assert reason(await refusal(worker.sessions.ExplainSession(request))) == "FORGOTTEN"


async def test_a_forgotten_session_is_not_found_and_the_error_says_why():
    async with service(*MIXED) as (world, worker):
        world.forget("ann", up_to=3)
        await worker.revision(5)
        for asked in (
            worker.sessions.GetSession(GetSessionRequest(session_id="ann")),
            worker.sessions.GetSession(GetSessionRequest(session_id="ann", as_of_revision=3)),
            worker.sessions.ExplainSession(ExplainSessionRequest(session_id="ann")),
        ):
            error = await refusal(asked)
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert reason(error) == "FORGOTTEN"
            assert metadata(error) == {"forgotten_revision": "5"}
        keys = [{"session_id": name} for name in ("ann", "bob")]
        batch = await worker.sessions.BatchGetSessions(BatchGetSessionsRequest(keys=keys))
        assert [each.session_id for each in batch.missing] == ["ann"]


async def test_a_session_that_comes_back_is_a_new_one():
    async with service(*MIXED) as (world, worker):
        world.forget("ann", up_to=3)
        late = body("ChatBot.UserSendMsg", 1_725_540_099_000, session_id="ann", MsgKey="late")
        world.append(late)
        await worker.revision(6)
        asked = GetSessionRequest(session_id="ann")
        assert reason(await refusal(worker.sessions.GetSession(asked))) == "FORGOTTEN"
        world.append(*life("SessionBegin", session_id="ann", start=1_725_540_098_000))
        await worker.revision(7)
        found = await worker.sessions.GetSession(asked)
        assert found.session.user_messages == 1
        before = GetSessionRequest(session_id="ann", as_of_revision=3)
        assert reason(await refusal(worker.sessions.GetSession(before))) == "FORGOTTEN"
        explained = await worker.sessions.ExplainSession(ExplainSessionRequest(session_id="ann"))
        assert [record.revision for record in explained.records] == [7, 7]


async def test_kept_sessions_are_as_they_were_at_every_revision():
    async with service(*MIXED) as (world, worker):
        asked = [GetSessionRequest(session_id="bob", as_of_revision=n) for n in (2, 3, 4)]
        before = [(await worker.sessions.GetSession(each)).session for each in asked]
        world.forget("ann")
        await worker.revision(5)
        assert [(await worker.sessions.GetSession(each)).session for each in asked] == before
        explained = await worker.sessions.ExplainSession(ExplainSessionRequest(session_id="bob"))
        assert [record.revision for record in explained.records] == [2, 4]


async def test_a_call_that_waits_for_a_forgotten_session_ends():
    async with service(*MIXED) as (world, worker):
        ended = [SessionState.SESSION_STATE_ENDED]
        waiting = [
            worker.sessions.WaitForState(WaitForStateRequest(session_id=name, states=ended))
            for name in ("ann", "ann", "bob")
        ]
        for call in waiting:
            await began(call, worker)
        world.forget("ann", up_to=3)
        for call in waiting[:2]:
            assert reason(await refusal(call)) == "FORGOTTEN"
        at_once = worker.sessions.WaitForState(WaitForStateRequest(session_id="ann", states=ended))
        assert reason(await refusal(at_once)) == "FORGOTTEN"
        world.append(*life("SessionEnd", session_id="bob", start=1_725_540_099_000))
        assert (await waiting[2]).session.session_id == "bob"


async def test_sessions_first_shows_no_forgotten_session_and_then_what_is_forgotten():
    async with service(*MIXED) as (world, worker):
        world.forget("ann", up_to=3)
        await worker.revision(5)
        call = worker.subscribe(sessions_first=True)
        got = await caught_up(call)
        assert [each.session_id for part in got for each in part.sessions.sessions] == ["bob"]
        assert told(got) == []
        world.forget("bob", up_to=4)
        assert told(await take(call, until="forgotten")) == [(6, ["bob"], [])]


async def test_the_client_yields_what_was_forgotten():
    async with service(*MIXED) as (world, worker):
        world.forget("ann", revisions=[9], up_to=3)
        await worker.revision(5)
        got: list[Update] = []
        async with (
            Client(f"127.0.0.1:{worker.port}") as client,
            aclosing(client.subscribe(after_revision=0, skip_forgotten=True)) as updates,
        ):
            async for update in updates:
                got.append(update)
                if update.caught_up:
                    break
    assert [record.revision for update in got for record in update.records] == [2, 4]
    (forgotten,) = [update for update in got if update.forgotten]
    assert forgotten.revision == 5
    assert forgotten.forgotten
    assert list(forgotten.forgotten.session_ids) == ["ann"]


@pytest.mark.parametrize("form", ["--json", "--csv"])
async def test_watch_prints_what_was_forgotten(form: str):
    async with service(*MIXED) as (world, worker):
        world.forget("ann", up_to=3)
        await worker.revision(5)
        target = f"127.0.0.1:{worker.port}"
        options = ("watch", "--after", "1", "--until-caught-up", form)
        refused = await asyncio.to_thread(run, *options, target=target)
        assert "REVISION_NOT_KEPT" in refused.stderr
        assert "skip_forgotten" in refused.stderr
        answer = await asyncio.to_thread(run, *options, "--skip-forgotten", target=target)
    if form == "--json":
        lines = [json.loads(line) for line in answer.stdout.splitlines()]
        assert [line.get("revision") for line in lines] == [2, 4, None]
        assert lines[2]["forgotten"]["session_ids"] == ["ann"]
    else:
        assert answer.stderr == (
            f"desk: forgotten at revision 5 in app {APP}: sessions: 1, malformed callbacks: 0\n"
        )

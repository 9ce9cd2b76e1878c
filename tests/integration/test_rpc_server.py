"""The worker as a whole: status, health, reflection, drain, several workers, failures."""

import asyncio
import threading
import time
from contextlib import closing
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from desk.v1.event_service_pb2 import SubscribeRequest
from desk.v1.event_service_pb2_grpc import EventServiceStub
from desk.v1.session_pb2 import SessionState
from desk.v1.session_service_pb2 import (
    CountSessionsRequest,
    GetSessionRequest,
    WaitForStateRequest,
)
from desk.v1.status_pb2 import GetStatusRequest
from desk.v1.status_pb2_grpc import StatusServiceStub
from service.rpc.limits import Limits
from service.rpc.server import SERVICES
from service.view.progress import Progress
from service.view.writer import ViewWriter
from tests.support.callbacks import APP, NOON, SESSION, body, life
from tests.support.loopback import reserved_port
from tests.support.rpc import (
    PATIENCE,
    Worker,
    reason,
    refusal,
    serve_world,
    service,
    take,
    until,
    worker,
    world,
)

BEGIN = life("SessionBegin", "ChatBot.UserSendMsg")


async def test_the_status_says_where_the_view_stands():
    async with service(*BEGIN) as (world, worker):
        status = await worker.status.GetStatus(GetStatusRequest())
        assert (status.header.journal_id, status.header.revision) == (world.journal.id, 2)
        assert (status.head_revision, status.oldest_revision, status.lag) == (2, 1, 0)
        assert status.lag_time.ToMilliseconds() == 0
        assert list(status.sdk_app_ids) == [APP]
        assert status.fingerprint in world.view.name
        assert len(bytes.fromhex(status.feed_digest)) == 32
        assert {each.name for each in status.component_versions} >= {"python", "grpcio", "sqlite"}
        assert all(each.version for each in status.component_versions)


async def test_the_status_says_how_far_the_view_is_behind_the_journal():
    """Whatever the follower last saw: it may be busy, or not there."""
    async with service(*BEGIN) as (made, worker):
        made.stop_following()
        made.append(*life("SessionBegin", session_id="later"))
        made.append(*life("SessionBegin", session_id="latest"))
        status = await worker.status.GetStatus(GetStatusRequest())
        assert (status.header.revision, status.head_revision, status.lag) == (2, 4, 2)
        received_at = made.journal.read(2, limit=1)[0].received_at
        assert status.lag_time.ToMilliseconds() >= time.time() * 1000 - received_at - 10_000


async def test_a_journal_that_cannot_be_asked_leaves_the_head_as_last_seen():
    async with service(*BEGIN) as (made, worker):
        made.edit("UPDATE progress SET head_revision = 5, behind_since = 1000")
        status = await worker.status.GetStatus(GetStatusRequest())
        assert (status.head_revision, status.lag) == (5, 3)
        assert status.lag_time.ToMilliseconds() > 1_700_000_000_000


async def test_a_journal_that_hangs_does_not_hold_up_the_status():
    async with service(*BEGIN, limits=Limits(backlog_seconds=0.1)) as (made, worker):
        hang = threading.Event()
        made.backlog_waits_for = hang
        try:
            status = await worker.status.GetStatus(GetStatusRequest())
            assert (status.head_revision, status.lag) == (2, 0)
        finally:
            hang.set()


async def test_the_status_says_when_the_follower_was_last_seen():
    async with service(*life("SessionBegin")) as (_, worker):
        before = time.time()

        async def seen_since() -> bool:
            status = await worker.status.GetStatus(GetStatusRequest())
            return status.follower_seen_at.ToMicroseconds() / 1e6 > before

        await until(seen_since)


async def test_the_status_counts_open_streams():
    async with service(*BEGIN) as (_, worker):
        call = worker.subscribe()
        await take(call)
        assert await worker.subscribers() == 1
        call.cancel()
        await until(lambda: without_subscribers(worker))


async def without_subscribers(worker: Worker) -> bool:
    return not await worker.subscribers()


@pytest.mark.parametrize("name", ["", *SERVICES])
async def test_every_service_is_healthy_once_the_worker_serves(name: str):
    async with service() as (_, worker):
        stub: Any = HealthStub(worker.channel)
        answer = await stub.Check(HealthCheckRequest(service=name))
        assert answer.status == HealthCheckResponse.SERVING


async def test_a_worker_that_cannot_read_its_view_is_not_healthy_until_it_can():
    async with service(*BEGIN, limits=Limits(guard_seconds=0.05)) as (made, worker):
        stub: Any = HealthStub(worker.channel)
        watch = stub.Watch(HealthCheckRequest(service=""))
        assert (await watch.read()).status == HealthCheckResponse.SERVING
        made.edit("ALTER TABLE progress RENAME TO unreadable")
        assert (await watch.read()).status == HealthCheckResponse.NOT_SERVING
        made.edit("ALTER TABLE unreadable RENAME TO progress")
        assert (await watch.read()).status == HealthCheckResponse.SERVING


async def test_the_health_of_all_services_can_be_listed():
    async with service() as (_, worker):
        stub: Any = HealthStub(worker.channel)
        listed = await stub.List(health_pb2.HealthListRequest())
        assert {name: each.status for name, each in listed.statuses.items()} == dict.fromkeys(
            ("", *SERVICES), HealthCheckResponse.SERVING
        )


async def test_the_api_can_be_discovered():
    async with service() as (_, worker):
        stub: Any = ServerReflectionStub(worker.channel)
        call = stub.ServerReflectionInfo(iter([ServerReflectionRequest(list_services="")]))
        answer = await call.read()
        names = {each.name for each in answer.list_services_response.service}
        assert names >= {*SERVICES, "grpc.health.v1.Health"}
        call.cancel()


async def test_calls_are_refused_with_the_progress_until_the_view_is_complete():
    with reserved_port() as port, world(BEGIN, follow=False) as made:
        stop, address = asyncio.Event(), f"127.0.0.1:{port}"
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve_world(made, address, stop, ready.set_result))
        async with grpc.aio.insecure_channel(address) as channel:
            health: Any = HealthStub(channel)
            check = health.Check(HealthCheckRequest(service=""), wait_for_ready=True, timeout=60)
            assert (await check).status == HealthCheckResponse.NOT_SERVING
            status: Any = StatusServiceStub(channel)
            assert "not there yet" in await not_ready(status.GetStatus(GetStatusRequest()))
            with closing(ViewWriter(made.folder)) as view, view.transaction():
                view.save_progress(Progress("j" * 32, "f", 45, head_revision=1_000))
            progress = await not_ready(status.GetStatus(GetStatusRequest()))
            assert "the view is being built: revision 45 of 1,000, 4 %" in progress
            stream = EventServiceStub(channel).Subscribe(SubscribeRequest())
            assert "45 of 1,000" in await not_ready(stream.read())
            assert not ready.done()
            made.follow()
            await asyncio.wait_for(ready, PATIENCE)

            async def serves() -> bool:
                answer = await health.Check(HealthCheckRequest(service=""), wait_for_ready=True)
                return bool(answer.status == HealthCheckResponse.SERVING)

            await until(serves)
        stop.set()
        await asyncio.wait_for(serving, PATIENCE)


async def not_ready(call: Any) -> str:
    """Return the message of a call that is refused because the view is not ready."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    return str(caught.value.details())


async def test_a_worker_that_waits_for_its_view_can_be_stopped():
    with world(follow=False) as made:
        stop = asyncio.Event()
        stop.set()
        await asyncio.wait_for(serve_world(made, "127.0.0.1:0", stop), PATIENCE)


async def test_an_address_that_cannot_be_bound_is_an_error():
    with world(BEGIN) as made:
        made.wait()
        serving = serve_world(made, "192.0.2.1:1", asyncio.Event())
        with pytest.raises(RuntimeError):
            await asyncio.wait_for(serving, PATIENCE)


async def test_a_worker_opens_the_view_of_another_journal_anew():
    ports: list[int] = []
    stop = asyncio.Event()
    with world(BEGIN) as made:
        serving = asyncio.create_task(
            serve_world(made, "127.0.0.1:0", stop, ports.append, limits=Limits(guard_seconds=0.05))
        )
        await until(lambda: served(ports, 1))
        made.edit(f"UPDATE progress SET journal_id = '{'a' * 32}'")
        await until(lambda: served(ports, 2))
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{ports[1]}")
        stub: Any = StatusServiceStub(channel)
        status = await stub.GetStatus(GetStatusRequest())
        assert status.header.journal_id == "a" * 32
        await channel.close()
        made.replace()
        await until(lambda: served(ports, 3))
        stop.set()
        await asyncio.wait_for(serving, PATIENCE)


async def served(ports: list[int], times: int) -> bool:
    return len(ports) >= times


async def test_a_drain_ends_every_stream_and_wait_with_a_reason():
    async with service(*BEGIN, limits=Limits(grace_seconds=30.0)) as (_, worker):
        streams = [worker.subscribe(after_revision=0) for _ in range(20)]
        for call in streams:
            await take(call)
        waits = [
            worker.sessions.WaitForState(
                WaitForStateRequest(session_id=SESSION, states=[SessionState.SESSION_STATE_ENDED])
            ),
            worker.sessions.GetSession(GetSessionRequest(session_id=SESSION, min_revision=9)),
        ]
        stub: Any = HealthStub(worker.channel)
        watch = stub.Watch(HealthCheckRequest(service=""))
        assert (await watch.read()).status == HealthCheckResponse.SERVING
        worker.stop.set()
        assert (await watch.read()).status == HealthCheckResponse.NOT_SERVING
        for call in streams:
            last = (await take(call, until="checkpoint"))[-1]
            assert last.header.revision == 2
        for ended in (*streams, *waits):
            error = await refusal(ended)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert reason(error) == "SHUTTING_DOWN"
        watch.cancel()  # for which the drain would wait
        await asyncio.wait_for(worker.task, PATIENCE)


async def test_two_workers_share_a_port():
    with world(BEGIN) as made:
        async with worker(made) as one, worker(made, port=one.port):

            async def started() -> str:
                channel = one.connect()
                stub: Any = StatusServiceStub(channel)
                status = await stub.GetStatus(GetStatusRequest())
                await channel.close()
                return str(status.started_at)

            met: set[str] = set()

            async def met_both() -> bool:
                met.add(await started())
                return len(met) == 2

            await until(met_both)


async def test_more_waiters_than_allowed_are_refused():
    async with service(*BEGIN, limits=Limits(waiters=0)) as (_, worker):
        states = [SessionState.SESSION_STATE_ENDED]
        for call in (
            worker.sessions.WaitForState(WaitForStateRequest(session_id="s", states=states)),
            worker.sessions.GetSession(GetSessionRequest(session_id="s", min_revision=9)),
        ):
            error = await refusal(call)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert reason(error) == "TOO_MANY_WAITERS"


async def test_a_count_that_takes_too_long_is_refused():
    bodies = [body("SessionBegin", NOON, session_id=f"s{n}") for n in range(2_000)]
    async with service(*bodies, limits=Limits(count_seconds=0.0)) as (_, worker):
        error = await refusal(worker.sessions.CountSessions(CountSessionsRequest()))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason(error) == "TOO_MANY_SESSIONS"


async def test_a_view_that_cannot_be_read_is_unavailable():
    async with service(*BEGIN) as (world, worker):
        world.edit("ALTER TABLE sessions RENAME TO gone")
        error = await refusal(worker.sessions.GetSession(GetSessionRequest(session_id=SESSION)))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert reason(error) == "VIEW_NOT_READY"


async def test_a_surprise_is_an_internal_error_that_shows_nothing_of_the_inside():
    async with service(*BEGIN) as (world, worker):
        world.edit("UPDATE sessions SET session = x'ff'")
        request = GetSessionRequest(session_id=SESSION, as_of_revision=1)
        error = await refusal(worker.sessions.GetSession(request))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert error.details() == "internal error; the server's log has it"


async def test_a_request_that_is_too_large_is_refused():
    async with service(*BEGIN) as (_, worker):
        request = GetSessionRequest(session_id="x" * 1024 * 1024)
        error = await refusal(worker.sessions.GetSession(request))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

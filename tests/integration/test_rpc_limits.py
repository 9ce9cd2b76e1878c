"""Limits for each caller: calls, connections, bytes, log lines."""

import asyncio
import json
import socket
import sys
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from structlog.testing import capture_logs

from command.throttle import Throttle
from desk.v1.event_pb2 import EventFilter
from desk.v1.event_service_pb2 import ListRejectionsRequest, SubscribeRequest
from desk.v1.event_service_pb2_grpc import EventServiceStub
from desk.v1.session_pb2 import SessionFilter, SessionKey, SessionState
from desk.v1.session_service_pb2 import (
    BatchGetSessionsRequest,
    BatchGetSessionsResponse,
    GetSessionRequest,
    ListSessionsRequest,
    WaitForStateRequest,
)
from desk.v1.session_service_pb2_grpc import SessionServiceStub
from service.rpc.limits import Limits
from tests.support.callbacks import APP, NOON, SESSION, body, life
from tests.support.rpc import PATIENCE, Worker, fields, reason, refusal, service, take, until

BEGIN = life("SessionBegin")
ELSEWHERE = "127.0.0.2"
CODES = grpc.StatusCode


def get(channel: grpc.aio.Channel) -> Any:
    stub: Any = SessionServiceStub(channel)
    return stub.GetSession(GetSessionRequest(session_id=SESSION), timeout=PATIENCE)


async def test_one_address_may_have_half_of_the_streams_and_another_the_rest():
    async with service(*BEGIN, limits=Limits(streams=4)) as (_, worker):
        for call in [worker.subscribe(), worker.subscribe()]:
            await take(call)
        error = await refusal(worker.subscribe())
        assert reason(error) == "TOO_MANY_STREAMS"
        assert "of this address" in str(error.details())
        async with worker.from_address(ELSEWHERE) as channel:
            await take(EventServiceStub(channel).Subscribe(SubscribeRequest()))


async def test_one_address_may_have_half_of_the_waiters_and_another_the_rest():
    ended = WaitForStateRequest(session_id=SESSION, states=[SessionState.SESSION_STATE_ENDED])
    later = GetSessionRequest(session_id=SESSION, min_revision=2)
    async with service(*BEGIN, limits=Limits(waiters=2)) as (_, worker):
        waiting = worker.sessions.WaitForState(ended)
        await until(lambda: waits_in_vain(worker))
        async with worker.from_address(ELSEWHERE) as channel:
            elsewhere: Any = SessionServiceStub(channel)
            error = await refusal(elsewhere.GetSession(later, timeout=1))
            assert error.code() is CODES.DEADLINE_EXCEEDED
            error = await refusal(elsewhere.WaitForState(ended, timeout=1))
            assert error.code() is CODES.DEADLINE_EXCEEDED
        assert not waiting.done()
        waiting.cancel()


async def waits_in_vain(worker: Worker) -> bool:
    """Return True if a call that would have to wait is refused."""
    request = GetSessionRequest(session_id=SESSION, min_revision=9)
    error = await refusal(worker.sessions.GetSession(request, timeout=1))
    return error.code() is CODES.RESOURCE_EXHAUSTED


def silent(channel: grpc.aio.Channel, method: str) -> grpc.aio.StreamUnaryCall[Any, Any]:
    """A call that is opened and whose request is never sent."""
    call = channel.stream_unary(method)()
    call_task = asyncio.ensure_future(call.wait_for_connection())
    call_task.add_done_callback(lambda task: task.cancelled() or task.exception())
    return call


async def test_calls_whose_request_never_comes_count_and_leave_room_for_others():
    async with service(*BEGIN, limits=Limits(unary=4)) as (_, worker):
        calls_ = [silent(worker.channel, "/desk.v1.SessionService/GetSession") for _ in range(2)]

        async def full() -> bool:
            try:
                await get(worker.channel)
            except grpc.aio.AioRpcError as error:
                return reason(error) == "TOO_MANY_CALLS"
            return False

        await until(full)
        async with worker.from_address(ELSEWHERE) as channel:
            assert (await get(channel)).session.session_id == SESSION
        for call in calls_:
            call.cancel()
        await until(lambda: succeeds(worker))


async def succeeds(worker: Worker) -> bool:
    try:
        await get(worker.channel)
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_a_request_that_does_not_come_in_time_is_refused():
    async with service(*BEGIN, limits=Limits(request_seconds=0.1)) as (_, worker):
        error = await refusal(silent(worker.channel, "/desk.v1.SessionService/GetSession"))
        assert (error.code(), reason(error)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
        )


async def test_health_and_reflection_are_counted_apart_from_questions():
    limits = Limits(unary=4, health=4, reflection=2)
    async with service(*BEGIN, limits=limits) as (_, worker), AsyncExitStack() as stack:
        health: Any = HealthStub(worker.channel)
        watches = [health.Watch(HealthCheckRequest(service="")) for _ in range(2)]
        for watch in watches:
            stack.callback(watch.cancel)
            assert (await watch.read()).status == HealthCheckResponse.SERVING
        assert reason(await refusal(health.Check(HealthCheckRequest()))) == "TOO_MANY_CALLS"
        reflection: Any = ServerReflectionStub(worker.channel)
        open_ = reflection.ServerReflectionInfo()
        stack.callback(open_.cancel)
        await open_.write(ServerReflectionRequest(list_services=""))
        assert (await open_.read()).list_services_response.service
        more = reflection.ServerReflectionInfo(iter([ServerReflectionRequest(list_services="")]))
        assert reason(await refusal(more)) == "TOO_MANY_CALLS"
        assert (await get(worker.channel)).session.session_id == SESSION
        async with worker.from_address(ELSEWHERE) as channel:
            elsewhere: Any = HealthStub(channel)
            answer = await elsewhere.Check(HealthCheckRequest())
            assert answer.status == HealthCheckResponse.SERVING


async def test_a_service_that_is_not_known_has_no_health():
    async with service() as (_, worker):
        health: Any = HealthStub(worker.channel)
        error = await refusal(health.Check(HealthCheckRequest(service="nobody")))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        watch = health.Watch(HealthCheckRequest(service="nobody"))
        assert (await watch.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113, 4.1)."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


def literal(name: str, value: str) -> bytes:
    """A header field as it is (RFC 7541, 6.2.2)."""
    return bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def without_room(path: str, request: bytes, *, calls_: int = 1) -> bytes:
    """Open calls of a client that never has room for a byte of the answer."""
    fields_ = {":method": "POST", ":scheme": "http", ":authority": "x", ":path": path}
    fields_ |= {"te": "trailers", "content-type": "application/grpc"}
    settings = frame(4, 0, 0, b"\0\4" + bytes(4))  # the initial window is 0
    head = b"".join(literal(*field) for field in fields_.items())
    body = b"\0" + len(request).to_bytes(4, "big") + request
    streams = range(1, 2 * calls_, 2)
    opened = b"".join(frame(1, 4, each, head) + frame(0, 1, each, body) for each in streams)
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + opened


async def test_a_watcher_that_reads_nothing_holds_up_neither_others_nor_the_drain():
    limits = Limits(grace_seconds=5.0)
    async with service(*BEGIN, limits=limits) as (_, worker), asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(without_room("/grpc.health.v1.Health/Watch", b""))
        await reader.readuntil(b"application/grpc")
        health: Any = HealthStub(worker.channel)
        watches = [health.Watch(HealthCheckRequest()) for _ in range(2)]
        for watch in watches:
            assert (await watch.read()).status == HealthCheckResponse.SERVING
        worker.stop.set()
        for watch in watches:
            assert (await watch.read()).status == HealthCheckResponse.NOT_SERVING
        await worker.task
        writer.close()


async def test_bytes_of_answers_that_are_not_read_are_bounded_for_each_address():
    asked = ListSessionsRequest()
    path = "/desk.v1.SessionService/ListSessions"
    bodies = [body("SessionBegin", NOON, session_id=f"{n:0200}") for n in range(20)]
    async with service(*bodies, limits=Limits(unread_bytes=16_000)) as (_, worker):
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(without_room(path, asked.SerializeToString()))
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b"application/grpc")

        async def lists() -> str:
            try:
                await worker.sessions.ListSessions(asked)
            except grpc.aio.AioRpcError as error:
                return reason(error)
            return "answered"

        assert await lists() == "TOO_MANY_CALLS"
        async with worker.from_address(ELSEWHERE) as channel:
            elsewhere: Any = SessionServiceStub(channel)
            answer = await elsewhere.ListSessions(asked)
        assert 4_000 < answer.ByteSize() < 7_500  # one address may have half: one such answer
        writer.close()
        await until(lambda: is_equal(lists, "answered"))


@pytest.mark.parametrize("asked", [{"after_revision": 0}, {"sessions_first": True}])
async def test_a_stream_that_is_not_read_makes_what_its_address_is_sent_smaller(asked):
    limits = Limits(stream_bytes=96_000, part_divisor=1, part_bytes=(512 * 1024, 2_000))
    bodies = [body("SessionBegin", NOON, session_id=f"{n:0200}") for n in range(300)]
    async with service(*bodies, limits=limits) as (_, worker):
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        request = SubscribeRequest(**asked).SerializeToString()
        writer.write(without_room("/desk.v1.EventService/Subscribe", request))
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b"application/grpc")

        async def is_small() -> bool:
            return await largest(worker.channel, asked) < 18_000

        await until(is_small)  # of 48,000 bytes at most, 32,768 are not read
        async with worker.from_address(ELSEWHERE) as channel:
            assert 28_000 < await largest(channel, asked) < 34_000
        writer.close()


@pytest.mark.parametrize("live", [False, True])
async def test_large_records_wait_for_those_of_their_address_that_are_not_read(live: bool):
    large = body("SessionBegin", NOON, CloudCustomData="x" * 60_000)
    asked: Any = {} if live else {"after_revision": 0}
    async with service(large, limits=Limits(stream_bytes=400_000)) as (world, worker):
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        request = SubscribeRequest(after_revision=0).SerializeToString()
        writer.write(without_room("/desk.v1.EventService/Subscribe", request))
        async with asyncio.timeout(PATIENCE), worker.from_address(ELSEWHERE) as channel:
            await reader.readuntil(b"application/grpc")
            call = worker.subscribe(**asked)
            others = [EventServiceStub(channel).Subscribe(SubscribeRequest(**asked))]
            if live:
                await take(call)
                await take(others[0])
                world.append(body("ChatBot.UserSendMsg", NOON, CloudCustomData="x" * 60_000))
            else:
                others += [EventServiceStub(channel).Subscribe(SubscribeRequest(**asked))]
            reading = asyncio.ensure_future(call.read())
            for other in others:
                assert (await other.read()).records.records
                other.cancel()
            assert not reading.done()
            writer.close()
            assert (await reading).records.records


async def largest(channel: grpc.aio.Channel, asked: Any) -> int:
    """The bytes of the largest message of a stream until it has caught up."""
    call = EventServiceStub(channel).Subscribe(SubscribeRequest(**asked, max_batch=1_000))
    sizes = [message.ByteSize() for message in await take(call)]
    call.cancel()
    return max(sizes)


async def test_a_small_answer_that_is_not_read_keeps_its_place():
    asked = GetSessionRequest(session_id=SESSION)
    async with service(*BEGIN, limits=Limits(unary=4)) as (_, worker):
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        path = "/desk.v1.SessionService/GetSession"
        writer.write(without_room(path, asked.SerializeToString(), calls_=2))
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b"application/grpc")
            await reader.readuntil(b"\0\0\0\3")  # the stream of the second call
        assert reason(await refusal(worker.sessions.GetSession(asked))) == "TOO_MANY_CALLS"
        async with worker.from_address(ELSEWHERE) as channel:
            assert (await get(channel)).session.session_id == SESSION
        writer.close()
        await until(lambda: succeeds(worker))


async def test_sessions_are_answered_also_unknown_ones_while_all_threads_are_busy():
    bodies = [body("SessionBegin", NOON, session_id=f"{n:0200}") for n in range(1_000)]
    async with service(*BEGIN, *bodies) as (_, worker), worker.from_address(ELSEWHERE) as channel:
        asked = ListSessionsRequest(page_size=1_000)
        stubs: list[Any] = [worker.sessions, SessionServiceStub(channel)]
        lists = {asyncio.ensure_future(stub.ListSessions(asked)) for stub in stubs * 100}
        await asyncio.wait(lists, return_when=asyncio.FIRST_COMPLETED)
        unknown = worker.sessions.GetSession(GetSessionRequest(session_id="nobody"))
        assert await ends_with(unknown) == "SESSION_NOT_FOUND"
        assert (await get(worker.channel)).session.session_id == SESSION
        assert not all(each.done() for each in lists)
        for each in lists:
            each.cancel()


async def test_quotas_are_given_back_whatever_a_call_ends_with():
    async with service(*BEGIN, limits=Limits(unary=2, waiters=2, streams=2)) as (_, worker):
        sessions = worker.sessions
        later = GetSessionRequest(session_id=SESSION, min_revision=9)
        unknown = GetSessionRequest(session_id="nobody")

        async def waits() -> grpc.StatusCode:
            return (await refusal(sessions.GetSession(later, timeout=1))).code()

        for _ in range(3):
            waiting = sessions.GetSession(later)
            await until(lambda: is_equal(waits, CODES.RESOURCE_EXHAUSTED))
            waiting.cancel()
            channel = worker.connect()
            await take(worker.subscribe(channel, after_revision=0))
            await channel.close()
            await until(lambda: none_left(worker))
            await until(lambda: is_equal(waits, CODES.DEADLINE_EXCEEDED))
            assert await ends_with(sessions.GetSession(unknown)) == "SESSION_NOT_FOUND"
            assert await succeeds(worker)


async def ends_with(call: Any) -> str:
    return reason(await refusal(call))


async def is_equal(ask: Any, wanted: object) -> bool:
    return await ask() == wanted


@pytest.mark.parametrize(
    "method",
    [
        "desk.v1.SessionService/WaitForState",
        "desk.v1.EventService/Subscribe",
        "grpc.health.v1.Health/Watch",
    ],
)
async def test_a_request_keeps_no_bytes_that_nothing_here_knows(method: str):
    """Of calls that stay open, thousands are allowed."""
    unknown = b"\xfa\x7f\x80\x80\x01" + bytes(16_384)
    async with service() as (_, worker):
        error = await refusal(worker.channel.unary_stream(f"/{method}")(unknown))
        assert (error.code(), reason(error)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
        )
        assert "16,384" in str(error.details())


MANY = ["é" * 130 + str(n) for n in range(18)]
NUMBERS: Any = range(100, 200)


@pytest.mark.parametrize(
    "asked",
    [
        EventFilter(agent_ids=MANY, client_user_ids=MANY, channel_types=MANY),
        EventFilter(types=NUMBERS, verdicts=NUMBERS),
        EventFilter(sdk_app_ids=range(-100, 0), types=NUMBERS, agent_ids=MANY),
    ],
)
async def test_an_error_stays_small_however_much_is_wrong(asked):
    async with service() as (_, worker):
        error = await refusal(worker.subscribe(filter=asked))
        assert (error.code(), reason(error)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
        )
        assert len(fields(error)) <= 11
        assert sum(len(value) for _, value in error.trailing_metadata()) < 7_000


UNDECODABLE = [
    b"\xff",
    b"\x12\x05ab",  # shorter than it says
    b"\x12\x01\xff",  # no UTF-8
]
METHODS = [
    "/desk.v1.SessionService/GetSession",
    "/desk.v1.SessionService/ListSessions",
    "/desk.v1.SessionService/WaitForState",
    "/desk.v1.StatusService/GetStatus",
]


async def test_undecodable_requests_are_invalid_and_cost_one_log_line_a_method():
    with capture_logs() as lines:
        async with service(*BEGIN) as (_, worker):
            for method in METHODS:
                for raw in UNDECODABLE[:1] if "Status" in method else UNDECODABLE:
                    for _ in range(20):
                        error = await refusal(worker.channel.unary_unary(method)(raw))
                        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
                        assert reason(error) == "INVALID_REQUEST"
            call = worker.channel.unary_stream("/desk.v1.EventService/Subscribe")(b"\xff")
            assert reason(await refusal(call)) == "INVALID_REQUEST"
            call = worker.channel.stream_stream(
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
            )(iter([b"\xff"]))
            assert reason(await refusal(call)) == "INVALID_REQUEST"
    throttle = Throttle()
    logged = [
        line["method"]
        for line in lines
        if line["event"] == "request_not_decoded"
        and throttle.admit((line["event"], line["throttle"])) is not None
    ]
    assert len(logged) == len(set(logged)) == len(METHODS) + 2
    assert not [line for line in lines if line["log_level"] == "error"]


async def test_clients_that_vanish_while_they_are_written_to_are_no_error():
    with capture_logs() as lines:
        async with service(*BEGIN, *life("ChatBot.UserSendMsg") * 1) as (_, worker):
            for _ in range(5):
                channels = [worker.connect() for _ in range(10)]
                streams = [worker.subscribe(channel, after_revision=0) for channel in channels]
                await asyncio.gather(*(stream.read() for stream in streams))
                for channel in channels:
                    await channel.close()
            await until(lambda: none_left(worker))
    assert not [line for line in lines if line["log_level"] == "error"]


async def none_left(worker: Worker) -> bool:
    return await worker.subscribers() == 0


LONG = "x" * 257
LONG_ID = "x" * 1_025


@pytest.mark.parametrize(
    ("asked", "field", "limit"),
    [
        (EventFilter(agent_ids=["a", LONG]), "filter.agent_ids", "256"),
        (EventFilter(client_user_ids=["é" * 129]), "filter.client_user_ids", "256"),
        (EventFilter(channel_types=[LONG]), "filter.channel_types", "256"),
        (EventFilter(session_ids=[LONG_ID]), "filter.session_ids", "1,024"),
    ],
)
async def test_a_value_or_filter_that_is_too_long_is_refused_by_name(asked, field, limit):
    async with service() as (_, worker):
        events: Any = EventServiceStub(worker.channel)
        for call in (
            worker.subscribe(filter=asked),
            events.ListRejections(ListRejectionsRequest(filter=asked)),
        ):
            error = await refusal(call)
            assert (reason(error), fields(error)) == ("INVALID_REQUEST", [field])
            assert limit in str(error.details())


async def test_names_as_long_as_callbacks_may_have_can_be_asked_for():
    async with service() as (_, worker):
        asked = EventFilter(agent_ids=[LONG[:256]], session_ids=[LONG_ID[:1_024]])
        await take(worker.subscribe(filter=asked))


async def test_a_session_id_that_is_too_long_is_refused_by_name():
    keys = [SessionKey(session_id="s"), SessionKey(session_id=LONG_ID)]
    async with service() as (_, worker):
        sessions = worker.sessions
        states = [SessionState.SESSION_STATE_ENDED]
        for call, field in (
            (sessions.GetSession(GetSessionRequest(session_id=LONG_ID)), "session_id"),
            (
                sessions.WaitForState(WaitForStateRequest(session_id=LONG_ID, states=states)),
                "session_id",
            ),
            (
                sessions.BatchGetSessions(BatchGetSessionsRequest(keys=keys)),
                "keys[1].session_id",
            ),
        ):
            assert fields(await refusal(call)) == [field]
        request = ListSessionsRequest(filter=SessionFilter(agent_ids=[LONG]))
        assert fields(await refusal(sessions.ListSessions(request))) == ["filter.agent_ids"]


async def test_a_batch_is_bounded_in_bytes_and_says_what_remains():
    names = [f"s{n:02}" for n in range(40)]
    bodies = [each for name in names[::2] for each in life("SessionBegin", session_id=name)]
    async with service(*bodies, limits=Limits(batch_bytes=500)) as (_, worker):
        asked = [SessionKey(session_id=name) for name in names]
        found: list[str] = []
        missing: list[str] = []
        answers: list[BatchGetSessionsResponse] = []
        while asked:
            request = BatchGetSessionsRequest(keys=asked)
            answers.append(await worker.sessions.BatchGetSessions(request))
            found += [session.session_id for session in answers[-1].sessions]
            missing += [key.session_id for key in answers[-1].missing]
            asked = list(answers[-1].remaining)
        assert (found, missing) == (names[::2], names[1::2])
        assert len(answers) > 1
        assert all(len(answer.sessions) > 0 for answer in answers)
        assert all(answer.ByteSize() < 3_000 for answer in answers)
        assert {key.sdk_app_id for key in answers[0].remaining} == {APP}


LITTLE_DESCRIPTORS = """
import asyncio, json, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
sys.path.insert(0, ".")
from tests.support.callbacks import life
from service.rpc.limits import Limits
from tests.support.rpc import service

async def main():
    async with service(*life("SessionBegin"), limits=Limits(handshake_seconds=1.0)) as (_, worker):
        print(json.dumps({"port": worker.port}), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_silent_connections_leave_descriptors_and_room_for_others():
    """More of them than there are descriptors; each is closed after seconds of silence."""
    root = Path(__file__).parents[2]
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LITTLE_DESCRIPTORS, cwd=root, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(60):
            line = b""
            while not line.startswith(b"{"):
                line = await child.stdout.readline()
            port = json.loads(line)["port"]
            old = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
            assert (await get(old)).session.session_id == SESSION
            with ExitStack() as stack:
                for _ in range(300):
                    stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                stub: Any = SessionServiceStub(old)
                assert (await stub.ListSessions(ListSessionsRequest())).sessions
                assert (await get(old)).session.session_id == SESSION
                new = grpc.aio.insecure_channel(
                    f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]
                )
                fresh: Any = SessionServiceStub(new)
                request = GetSessionRequest(session_id=SESSION)
                answer = await fresh.GetSession(request, wait_for_ready=True, timeout=PATIENCE)
                assert answer.session.session_id == SESSION
                await new.close()
            await old.close()
    finally:
        child.kill()
        await child.wait()

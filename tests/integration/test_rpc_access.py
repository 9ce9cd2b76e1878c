"""Access by client: keys, scopes, apps, texts, revocation; every method, live and stored."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from desk.v1 import (
    admin_service_pb2,
    event_service_pb2,
    report_service_pb2,
    session_service_pb2,
    status_pb2,
)
from desk.v1 import board_service_pb2 as boards
from desk.v1 import event_service_pb2 as events
from desk.v1 import session_service_pb2 as sessions
from desk.v1.admin_service_pb2 import ForgetRequest, ListForgottenRequest
from desk.v1.event_pb2 import Event, EventFilter, SessionRecord, Verdict
from desk.v1.report_service_pb2 import GetReportRequest, ReportGroup
from desk.v1.session_pb2 import SessionFilter, SessionKey, SessionState, TimeRange
from metrics.definitions import AUTH_DENIED
from metrics.report import AppReport, GatewayReport, save
from service.certificates import CertificateFiles
from service.clients import new_key
from service.records import timestamp
from service.rpc.access import MESSAGE_FIELDS, SCOPES, Gate
from service.rpc.errors import CallRefused
from service.rpc.grants import WRONG_KEYS, Grants, NotProven, WrongKeys
from service.rpc.tls import Tls
from tests.support.callbacks import NOON, body, life
from tests.support.certificates import Authority, Pair
from tests.support.clients import READ_ALL, Clients, bearer
from tests.support.rpc import Worker, World, reason, refusal, take, until, worker, world

OURS, THEIRS = 7, 8
"""Two apps; `ours` may read the first, `theirs` the second."""

TEXT = "the-secret-text"
MESSAGE = {
    "MsgKey": f"{TEXT}-key",
    "MsgBody": [{"MsgType": "TIMTextElem", "MsgContent": {"Text": TEXT}}],
    "CloudCustomData": f"{TEXT}-custom",
}
CODES = grpc.StatusCode
QUEUED, CHATBOT = SessionState.SESSION_STATE_QUEUED, SessionState.SESSION_STATE_CHATBOT
ALL_VERDICTS = [number for number in Verdict.values() if number]


def callbacks(app: int) -> list[bytes]:
    """Two sessions of an app, a callback that is impossible, one that is malformed."""
    return [
        *life("SessionBegin", "ChatBot.UserSendMsg", session_id=f"one-{app}", **MESSAGE),
        *life("SessionBegin", session_id=f"two-{app}"),
        body("ChatBot.UserSendMsg", NOON, session_id=f"not-begun-{app}", **MESSAGE),
        f'{{"SessionId": "malformed-{app}", "text": "{TEXT}"}}'.encode(),
    ]


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    return Clients(tmp_path)


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    """A journal with callbacks of both apps."""
    with world() as made:
        for app in (OURS, THEIRS):
            made.append(*callbacks(app), app=app)
        made.wait()
        yield made


@asynccontextmanager
async def guarded(made: World, clients: Clients, **options: Any) -> AsyncIterator[Worker]:
    async with worker(made, apps=(OURS, THEIRS), clients=clients.file(), **options) as serving:
        yield serving


def key_of(app: int, name: str = "one") -> dict[str, Any]:
    return {"sdk_app_id": app, "session_id": f"{name}-{app}"}


def event_filter(app: int) -> EventFilter:
    return EventFilter(sdk_app_ids=[app] if app else [])


def board_options(app: int) -> boards.BoardOptions:
    return boards.BoardOptions(sdk_app_ids=[app] if app else [])


def session_filter(app: int) -> SessionFilter:
    return SessionFilter(sdk_app_ids=[app] if app else [])


Call = Callable[[Worker, int, Any], Any]

SESSIONS: dict[str, Call] = {
    "GetSession": lambda worker, app, metadata: worker.sessions.GetSession(
        sessions.GetSessionRequest(**key_of(app)), metadata=metadata
    ),
    "BatchGetSessions": lambda worker, app, metadata: worker.sessions.BatchGetSessions(
        sessions.BatchGetSessionsRequest(keys=[SessionKey(**key_of(app))]), metadata=metadata
    ),
    "ListSessions": lambda worker, app, metadata: worker.sessions.ListSessions(
        sessions.ListSessionsRequest(filter=session_filter(app)), metadata=metadata
    ),
    "CountSessions": lambda worker, app, metadata: worker.sessions.CountSessions(
        sessions.CountSessionsRequest(
            filter=session_filter(app), group_by=sessions.CountGroup.COUNT_GROUP_SDK_APP
        ),
        metadata=metadata,
    ),
    "ExplainSession": lambda worker, app, metadata: worker.sessions.ExplainSession(
        sessions.ExplainSessionRequest(**key_of(app)), metadata=metadata
    ),
    "WaitForState": lambda worker, app, metadata: worker.sessions.WaitForState(
        sessions.WaitForStateRequest(**key_of(app), states=[CHATBOT]), metadata=metadata
    ),
}
BOARD: dict[str, Call] = {
    "GetBoard": lambda worker, app, metadata: worker.board.GetBoard(
        boards.GetBoardRequest(options=board_options(app)), metadata=metadata
    ),
    "WatchBoard": lambda worker, app, metadata: worker.board.WatchBoard(
        boards.WatchBoardRequest(options=board_options(app)), metadata=metadata
    ),
    "GetReport": lambda worker, app, metadata: worker.report.GetReport(
        GetReportRequest(
            sdk_app_ids=[app] if app else [],
            group_by=[ReportGroup.REPORT_GROUP_SDK_APP],
            range=TimeRange(start_time=timestamp(NOON), end_time=timestamp(NOON + 60_000)),
        ),
        metadata=metadata,
    ),
}
FEED: dict[str, Call] = {
    "Subscribe": lambda worker, app, metadata: worker.events.Subscribe(
        events.SubscribeRequest(filter=event_filter(app), after_revision=0), metadata=metadata
    ),
    "ListRejections": lambda worker, app, metadata: worker.events.ListRejections(
        events.ListRejectionsRequest(filter=event_filter(app)), metadata=metadata
    ),
    "CountEvents": lambda worker, app, metadata: worker.events.CountEvents(
        events.CountEventsRequest(sdk_app_ids=[app] if app else []), metadata=metadata
    ),
}
STATUS: dict[str, Call] = {
    "GetStatus": lambda worker, app, metadata: worker.status.GetStatus(
        status_pb2.GetStatusRequest(), metadata=metadata
    ),
    "ListSubscribers": lambda worker, app, metadata: worker.status.ListSubscribers(
        status_pb2.ListSubscribersRequest(), metadata=metadata
    ),
    "ServerReflectionInfo": lambda worker, app, metadata: reflection(worker, metadata),
}
ADMIN: dict[str, Call] = {
    "Forget": lambda worker, app, metadata: worker.admin.Forget(
        ForgetRequest(sdk_app_id=app, client_user_id="user-1", dry_run=True), metadata=metadata
    ),
    "ListForgotten": lambda worker, app, metadata: worker.admin.ListForgotten(
        ListForgottenRequest(sdk_app_ids=[app] if app else []), metadata=metadata
    ),
}
CALLS = {**SESSIONS, **BOARD, **FEED, **STATUS, **ADMIN}


def reflection(worker: Worker, metadata: Any) -> Any:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(worker.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    return stub.ServerReflectionInfo(iter([asked]), metadata=metadata)


async def answer_of(call: Any) -> bytes:
    """Everything that a call is sent, serialised; of a stream until it has caught up."""
    if not hasattr(call, "read"):
        return bytes((await call).SerializeToString())
    got = b""
    while (message := await call.read()) is not grpc.aio.EOF:
        got += message.SerializeToString()
        if isinstance(message, boards.WatchBoardResponse) or (
            isinstance(message, events.SubscribeResponse) and message.HasField("caught_up")
        ):
            call.cancel()
            break
    return got


def test_every_method_has_a_scope_and_no_other_has():
    served = {
        method.full_name
        for module, services in (
            (session_service_pb2, ["SessionService"]),
            (event_service_pb2, ["EventService"]),
            (status_pb2, ["StatusService"]),
            (boards, ["BoardService"]),
            (report_service_pb2, ["ReportService"]),
            (admin_service_pb2, ["AdminService"]),
            (health_pb2, ["Health"]),
            (reflection_pb2, ["ServerReflection"]),
        )
        for service in services
        for method in module.DESCRIPTOR.services_by_name[service].methods
    }
    assert set(SCOPES) == served
    is_open = {name for name, scope in SCOPES.items() if scope is None}
    assert is_open == {f"grpc.health.v1.Health.{name}" for name in ("Check", "List", "Watch")}
    assert {name.rpartition(".")[2] for name in set(SCOPES) - is_open} == set(CALLS)


def test_a_method_that_nobody_gave_a_scope_cannot_be_served():
    file = descriptor_pb2.FileDescriptorProto(
        name="new.proto", package="new", dependency=["desk/v1/status.proto"]
    )
    method = file.service.add(name="New").method.add(name="Read")
    method.input_type = method.output_type = ".desk.v1.GetStatusRequest"
    pool = descriptor_pool.Default()
    pool.Add(file) if hasattr(pool, "Add") else pool.AddSerializedFile(file.SerializeToString())
    (method,) = pool.FindServiceByName("new.New").methods
    with pytest.raises(LookupError):
        Gate(Grants(None, [], encrypted=False), method)


@pytest.mark.parametrize("name", CALLS)
async def test_without_a_valid_key_there_is_one_answer_whatever_the_cause(name, made, clients):
    key = clients.add("ours", apps=[OURS], scopes=(*READ_ALL, "admin"))
    ended = clients.add("ended", not_after=datetime.now(UTC).date() - timedelta(days=1))
    forged = key[:-1] + ("A" if key[-1] != "A" else "B")
    attempts: list[Any] = [
        None,
        bearer(new_key("unknown")),
        bearer(new_key(key.split("_")[1])),
        bearer(forged),
        bearer(ended),
        bearer(""),
        bearer(f"desk_{'x' * 5_000}"),
        bearer(f"{key} "),
        (("authorization", key),),
        (("authorization", f"Basic {key}"),),
        (*bearer(key), *bearer(key)),
        (("authorization-bin", key.encode()),),
    ]
    async with guarded(made, clients) as serving:
        errors = [await refusal(CALLS[name](serving, OURS, attempt)) for attempt in attempts]
        assert {(each.code(), reason(each), each.details()) for each in errors} == {
            (CODES.UNAUTHENTICATED, "UNAUTHENTICATED", "the call has no valid key or certificate")
        }
        assert await answer_of(CALLS[name](serving, OURS, bearer(key)))


async def test_health_is_open(made, clients):
    async with guarded(made, clients) as serving:
        stub: Any = health_pb2_grpc.HealthStub(serving.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert (await stub.List(health_pb2.HealthListRequest())).statuses
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert await watch.read()
        watch.cancel()


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("sessions.read", {**SESSIONS, **BOARD}),
        ("feed.read", FEED),
        ("status.read", STATUS),
        ("messages.read", {}),
        ("admin", ADMIN),
    ],
)
async def test_a_scope_allows_its_methods_and_no_other(scope, allowed, made, clients):
    key = clients.add("narrow", scopes=(scope,))
    async with guarded(made, clients) as serving:
        for name, call in CALLS.items():
            if name in allowed:
                assert await answer_of(call(serving, OURS, bearer(key)))
            else:
                error = await refusal(call(serving, OURS, bearer(key)))
                assert (error.code(), reason(error)) == (CODES.PERMISSION_DENIED, "SCOPE_MISSING")


@pytest.mark.parametrize("name", {**SESSIONS, **BOARD, **FEED})
async def test_another_app_is_refused_and_no_app_means_the_own_ones(name, made, clients):
    keys = {OURS: clients.add("ours", apps=[OURS]), THEIRS: clients.add("theirs", apps=[THEIRS])}
    async with guarded(made, clients) as serving:
        for own, other in ((OURS, THEIRS), (THEIRS, OURS)):
            metadata = bearer(keys[own])
            for app in (other, 9, -1):
                error = await refusal(CALLS[name](serving, app, metadata))
                assert (error.code(), reason(error)) == (CODES.PERMISSION_DENIED, "APP_NOT_ALLOWED")
            found = await answer_of(CALLS[name](serving, own, metadata))
            assert f"-{other}".encode() not in found
            if name in {**FEED, **BOARD} or name in ("ListSessions", "CountSessions"):
                assert await answer_of(CALLS[name](serving, 0, metadata)) == found


async def test_a_filter_with_one_foreign_app_among_the_own_is_refused(made, clients):
    metadata = bearer(clients.add("ours", apps=[OURS]))
    mixed = [OURS, THEIRS]
    keys = [SessionKey(**key_of(OURS)), SessionKey(**key_of(THEIRS))]
    async with guarded(made, clients) as serving:
        for call in (
            serving.sessions.ListSessions(
                sessions.ListSessionsRequest(filter=SessionFilter(sdk_app_ids=mixed)),
                metadata=metadata,
            ),
            serving.sessions.BatchGetSessions(
                sessions.BatchGetSessionsRequest(keys=keys), metadata=metadata
            ),
            serving.events.Subscribe(
                events.SubscribeRequest(filter=EventFilter(sdk_app_ids=mixed)), metadata=metadata
            ),
        ):
            assert reason(await refusal(call)) == "APP_NOT_ALLOWED"


async def test_the_error_for_an_app_that_is_not_configured_names_none_of_other_clients(
    made, clients
):
    own, every = bearer(clients.add("own", apps=[OURS, 9])), bearer(clients.add("every"))
    request = sessions.GetSessionRequest(sdk_app_id=9, session_id="x")
    async with guarded(made, clients) as serving:
        for metadata, apps in ((own, f"{OURS}"), (every, f"{OURS}, {THEIRS}")):
            error = await refusal(serving.sessions.GetSession(request, metadata=metadata))
            assert error.details() == f'no session "x": app 9 is not configured; here: {apps}'


async def test_0_as_an_app_is_the_only_one_of_the_client(made, clients):
    one, two = clients.add("one", apps=[OURS]), clients.add("two", apps=[OURS, THEIRS, 9])
    request = sessions.GetSessionRequest(session_id=f"one-{OURS}")
    async with guarded(made, clients) as serving:
        found = await serving.sessions.GetSession(request, metadata=bearer(one))
        assert found.session.sdk_app_id == OURS
        error = await refusal(serving.sessions.GetSession(request, metadata=bearer(two)))
        assert reason(error) == "SDK_APP_ID_REQUIRED"
        assert error.details().endswith(f"here: {OURS}, {THEIRS}")


async def test_pages_stay_in_the_own_app_and_tokens_of_another_client_are_refused(made, clients):
    own = {app: bearer(clients.add(f"client-{app}", apps=[app])) for app in (OURS, THEIRS)}

    def pages(serving: Worker, app: int, token: str) -> list[Any]:
        return [
            serving.sessions.ListSessions(
                sessions.ListSessionsRequest(page_size=1, page_token=token), metadata=own[app]
            ),
            serving.events.ListRejections(
                events.ListRejectionsRequest(page_size=1, page_token=token), metadata=own[app]
            ),
            serving.sessions.ExplainSession(
                sessions.ExplainSessionRequest(
                    session_id=f"one-{app}", page_size=1, page_token=token
                ),
                metadata=own[app],
            ),
        ]

    async with guarded(made, clients) as serving:
        for place, first in enumerate(pages(serving, OURS, "")):
            token = (await first).next_page_token
            assert token
            theirs = pages(serving, THEIRS, token)
            assert reason(await refusal(theirs[place])) == "INVALID_PAGE_TOKEN"
            following = await answer_of(pages(serving, OURS, token)[place])
            assert f"-{THEIRS}".encode() not in following


async def test_snapshots_and_live_streams_have_the_own_app_only(clients):
    own = bearer(clients.add("ours", apps=[OURS]))
    with world() as made:
        for app in (OURS, THEIRS):
            made.append(*callbacks(app), app=app)
        made.wait()
        async with guarded(made, clients) as serving:
            stream = serving.events.Subscribe(
                events.SubscribeRequest(
                    sessions_first=True,
                    include_session=True,
                    filter=EventFilter(verdicts=ALL_VERDICTS),
                ),
                metadata=own,
            )
            before = await take(stream)
            snapshot = [each.session_id for message in before for each in message.sessions.sessions]
            assert sorted(snapshot) == [f"one-{OURS}", f"two-{OURS}"]
            for app in (THEIRS, OURS):
                made.append(*life("SessionBegin", session_id=f"live-{app}"), app=app)
            live = await take(stream, until="records")
            found = [record.event.session_id for each in live for record in each.records.records]
            assert found == [f"live-{OURS}"]
            stream.cancel()


async def test_a_wait_ends_for_the_own_session_and_not_for_one_of_the_same_name(clients):
    own = bearer(clients.add("ours", apps=[OURS]))
    with world() as made:
        made.append(*life("SessionBegin", session_id="same"), app=OURS)
        made.wait()
        async with guarded(made, clients) as serving:
            wait = serving.sessions.WaitForState(
                sessions.WaitForStateRequest(session_id="same", states=[QUEUED]), metadata=own
            )
            queued = (
                "SessionBegin",
                "TransferringToHuman",
                "TransferringToHumanWait",
            )
            made.append(*life(*queued, session_id="same"), app=THEIRS)
            made.wait()
            made.append(*life(*queued, session_id="same")[1:], app=OURS)
            assert (await wait).session.sdk_app_id == OURS


async def test_the_status_lists_the_own_apps(made, clients):
    own = bearer(clients.add("ours", apps=[OURS, 9]))
    every = bearer(clients.add("all"))
    async with guarded(made, clients) as serving:
        request = status_pb2.GetStatusRequest()
        assert list((await serving.status.GetStatus(request, metadata=own)).sdk_app_ids) == [OURS]
        status = await serving.status.GetStatus(request, metadata=every)
        assert list(status.sdk_app_ids) == [OURS, THEIRS]


async def test_the_status_of_the_gateway_has_the_own_apps_only(clients):
    own, every = bearer(clients.add("ours", apps=[OURS])), bearer(clients.add("all"))
    reports = [AppReport(sdk_app_id=app, outcomes={"kept": 1}) for app in (0, OURS, THEIRS)]
    with world() as made:
        made.append(*callbacks(OURS), app=OURS)
        made.wait()
        save(GatewayReport(started_at=1, reported_at=2, apps=reports), made.folder)
        async with guarded(made, clients) as serving:
            for metadata, apps in ((own, [OURS]), (every, [0, OURS, THEIRS])):
                request = status_pb2.GetStatusRequest()
                status = await serving.status.GetStatus(request, metadata=metadata)
                assert [each.sdk_app_id for each in status.gateway.apps] == apps


def assert_alike_but_for_texts(blind: list[SessionRecord], seeing: list[SessionRecord]) -> None:
    """Check that a client without `messages.read` has the same records, without their texts."""
    for hidden, shown in zip(blind, seeing, strict=True):
        assert shown.event.raw_body
        assert shown.event.client_ip
        assert shown.event.platform
        for field in ("message", "raw_body", "client_ip", "platform", "cloud_custom_data"):
            shown.event.ClearField(field)
        assert hidden == shown
        assert TEXT.encode() not in hidden.SerializeToString()


async def test_without_messages_read_no_text_is_sent_stored_or_live(clients):
    blind = bearer(clients.add("blind", scopes=("sessions.read", "feed.read")))
    seeing = bearer(clients.add("seeing"))
    subscribe = events.SubscribeRequest(
        after_revision=0, include_session=True, filter=EventFilter(verdicts=ALL_VERDICTS)
    )
    sent: dict[Any, list[SessionRecord]] = {blind: [], seeing: []}
    with world() as made:
        made.append(*callbacks(OURS), app=OURS)
        made.wait()
        async with guarded(made, clients) as serving:
            streams = {key: serving.events.Subscribe(subscribe, metadata=key) for key in sent}
            for key, stream in streams.items():
                sent[key] += [each for got in await take(stream) for each in got.records.records]
            message = body(
                "ChatBot.UserSendMsg", NOON + 20_000, session_id=f"one-{OURS}", **MESSAGE
            )
            made.append(message, app=OURS)
            for key, stream in streams.items():
                (*_, live) = await take(stream, until="records")
                sent[key] += live.records.records
                stream.cancel()
    assert_alike_but_for_texts(sent[blind], sent[seeing])
    assert len(sent[blind]) == len(callbacks(OURS)) + 1


async def test_without_messages_read_no_text_is_in_any_answer(made, clients):
    blind = bearer(clients.add("blind", scopes=("sessions.read", "feed.read")))
    seeing = bearer(clients.add("seeing"))
    async with guarded(made, clients) as serving:
        for call in (FEED["ListRejections"], SESSIONS["ExplainSession"]):
            hidden, shown = [(await call(serving, OURS, key)).records for key in (blind, seeing)]
            assert_alike_but_for_texts(hidden, shown)
            assert len(hidden) == 2
        for name in SESSIONS:
            assert TEXT.encode() not in await answer_of(CALLS[name](serving, OURS, blind))


def test_every_field_of_an_event_is_either_left_out_without_messages_read_or_told_to_all():
    told = {"revision", "sdk_app_id", "session_id", "type", "type_name", "event_time", "id"}
    told |= {"received_at", "request_id", "channel_type", "client_user_id", "customer_service_id"}
    told |= {"agent_id", "forward_from_agent_id", "satisfaction", "agent_contacted_user"}
    assert set(Event.DESCRIPTOR.fields_by_name) == told | set(MESSAGE_FIELDS)


async def test_the_streams_and_waits_of_a_removed_client_end(made, clients):
    key = clients.add("ours")
    kept = clients.add("kept")
    async with guarded(made, clients) as serving:
        reading = CALLS["Subscribe"](serving, OURS, bearer(key))
        await take(reading)
        idle = CALLS["Subscribe"](serving, OURS, bearer(key))
        await idle.read()
        wait = serving.sessions.WaitForState(
            sessions.WaitForStateRequest(**key_of(OURS), states=[QUEUED]), metadata=bearer(key)
        )
        other = CALLS["Subscribe"](serving, OURS, bearer(kept))
        await take(other)
        clients.remove("ours")
        for call in (reading, idle, wait):
            error = await refusal(call)
            assert (error.code(), reason(error)) == (CODES.UNAUTHENTICATED, "UNAUTHENTICATED")
        assert not other.done()
        other.cancel()
        error = await refusal(CALLS["GetSession"](serving, OURS, bearer(key)))
        assert error.code() is CODES.UNAUTHENTICATED


async def test_a_stream_that_its_client_does_not_read_is_ended_too(clients):
    key, other = clients.add("ours"), bearer(clients.add("other"))
    long = {"MsgBody": [{"MsgType": "TIMTextElem", "MsgContent": {"Text": "x" * 20_000}}]}
    bodies = [body("SessionBegin", NOON, session_id=f"s{n}", **long) for n in range(200)]
    with world() as made:
        made.append(*bodies, app=OURS)
        made.wait()
        async with guarded(made, clients) as serving:
            stream = CALLS["Subscribe"](serving, OURS, bearer(key))
            await stream.read()
            clients.remove("ours")

            async def gone() -> bool:
                status = await CALLS["GetStatus"](serving, OURS, other)
                return not status.subscribers

            await until(gone)
            stream.cancel()


async def test_the_calls_of_a_key_end_with_it_and_another_of_the_client_goes_on(made, clients):
    first, second = clients.add("ours", keys=2).split()
    async with guarded(made, clients) as serving:
        streams = [CALLS["Subscribe"](serving, OURS, bearer(key)) for key in (first, second)]
        for stream in streams:
            await take(stream)
        clients.change("ours", "keys = [{", f"keys = [{{not_after = {date(2020, 1, 1)}, ")
        assert reason(await refusal(streams[0])) == "UNAUTHENTICATED"
        assert not streams[1].done()
        streams[1].cancel()


async def test_calls_of_a_client_whose_rights_change_end_to_be_called_again(made, clients):
    key = clients.add("ours", apps=[OURS, THEIRS])
    async with guarded(made, clients) as serving:
        stream = CALLS["Subscribe"](serving, OURS, bearer(key))
        await take(stream)
        clients.change("ours", f"[{OURS}, {THEIRS}]", f"[{THEIRS}]")
        error = await refusal(stream)
        assert (error.code(), reason(error)) == (CODES.UNAVAILABLE, "ACCESS_CHANGED")
        again = await refusal(CALLS["Subscribe"](serving, OURS, bearer(key)))
        assert reason(again) == "APP_NOT_ALLOWED"


async def test_a_broken_clients_file_leaves_the_old_rights_in_force(made, clients):
    key = clients.add("ours")
    async with guarded(made, clients) as serving:
        stream = CALLS["Subscribe"](serving, OURS, bearer(key))
        await take(stream)
        with capture_logs() as lines:
            clients.path.write_text("broken")

            async def reported() -> bool:
                return any(line["event"] == "clients_not_reloaded" for line in lines)

            await until(reported)
        assert await answer_of(CALLS["GetSession"](serving, OURS, bearer(key)))
        assert not stream.done()
        stream.cancel()


async def test_keys_are_rotated_under_load_without_a_failed_call(made, clients):
    first, second = clients.add("ours", keys=2).split()
    codes: list[Any] = []
    async with guarded(made, clients) as serving:
        key, stop = [first], asyncio.Event()

        async def call_again_and_again() -> None:
            while not stop.is_set():
                codes.append(
                    len(await answer_of(CALLS["GetSession"](serving, OURS, bearer(key[0]))))
                )

        callers = [asyncio.create_task(call_again_and_again()) for _ in range(8)]
        await until(lambda: enough(codes, 100))
        key[0] = second
        wanted = len(codes) + 100
        await until(lambda: enough(codes, wanted))
        clients.change("ours", "keys = [{", f"keys = [{{not_after = {date(2020, 1, 1)}, ")

        async def refused() -> bool:
            try:
                await answer_of(CALLS["GetSession"](serving, OURS, bearer(first)))
            except grpc.aio.AioRpcError as error:
                return error.code() is CODES.UNAUTHENTICATED
            return False

        await until(refused)
        stop.set()
        await asyncio.gather(*callers)
        assert len(set(codes)) == 1


async def enough(codes: list[Any], wanted: int) -> bool:
    return len(codes) >= wanted


async def test_wrong_keys_are_limited_by_address_and_right_ones_are_not(made, clients):
    key, wrong = clients.add("ours"), bearer(new_key("wrong"))
    async with guarded(made, clients) as serving:
        reasons = [
            reason(await refusal(CALLS["GetSession"](serving, OURS, wrong)))
            for _ in range(WRONG_KEYS + 50)  # the limit rises by one a second
        ]
        assert reasons[:WRONG_KEYS] == ["UNAUTHENTICATED"] * WRONG_KEYS
        assert reasons[-1] == "TOO_MANY_WRONG_KEYS"
        assert await answer_of(CALLS["GetSession"](serving, OURS, bearer(key)))
        async with serving.from_address("127.0.0.2") as channel:
            serving.channel, own = channel, serving.channel
            error = await refusal(CALLS["GetSession"](serving, OURS, wrong))
            assert reason(error) == "UNAUTHENTICATED"
            serving.channel = own


def test_an_address_may_try_again_after_a_while_and_few_addresses_are_remembered():
    now = [0.0]
    wrong_keys = WrongKeys(clock=lambda: now[0])
    tried = [wrong_keys.allow("a") for _ in range(WRONG_KEYS + 2)]
    assert tried == [True] * WRONG_KEYS + [False] * 2
    now[0] = 3.0
    assert [wrong_keys.allow("a") for _ in range(4)] == [True] * 3 + [False]
    for number in range(2_000):
        wrong_keys.allow(str(number))
    assert wrong_keys.allow("a")


class Context:
    """The context of a call, as far as its proof is concerned."""

    def __init__(self, peer: str, key: str = "", certificate: bytes = b"") -> None:
        names = {"peer_dns": [b"board.example"], "x509_pem_cert": [certificate]}
        self.peer = lambda: peer
        self.invocation_metadata = lambda: bearer(key) if key else ()
        self.auth_context = lambda: names if certificate else {}


@pytest.mark.parametrize(
    ("peer", "loopback"),
    [
        ("ipv4:127.0.0.1:50000", True),
        ("ipv4:127.9.9.9:50000", True),
        ("ipv6:%5B::1%5D:50000", True),
        ("ipv6:[::ffff:127.0.0.1]:50000", True),
        ("unix:", True),
        ("ipv4:10.0.0.7:50000", False),
        ("ipv4:172.17.0.1:50000", False),
        ("ipv6:%5B2001:db8::1%5D:50000", False),
        ("ipv6:%5Bfe80::1%25eth0%5D:50000", False),
        ("ipv4:127.0.0.1.example:1", False),
        ("", False),
    ],
)
def test_a_key_comes_over_tls_or_from_loopback(peer, loopback, clients):
    key = clients.add("ours")
    for encrypted in (True, False):
        grants = Grants(clients.file(), [OURS], encrypted=encrypted)
        if encrypted or loopback:
            assert grants.of(Context(peer, key)).client == "ours"
        else:
            with pytest.raises(NotProven, match="without TLS"):
                grants.of(Context(peer, key))


def test_a_certificate_that_ends_while_its_connection_is_open_is_refused(clients, tmp_path):
    clients.add("board", san=("board.example",))
    pair = Authority(tmp_path).issue("board", "DNS:board.example")
    sign = ("openssl", "x509", "-in", pair.chain, "-signkey", pair.key, "-days", "-1")
    ended = subprocess.run(sign, check=True, capture_output=True).stdout
    grants = Grants(clients.file(), [OURS], encrypted=True)
    now, later = (
        Context("ipv4:10.0.0.7:1", certificate=certificate)
        for certificate in (pair.chain.read_bytes(), ended)
    )
    assert grants.of(now).client == "board"
    with pytest.raises(NotProven, match="has ended"):
        grants.of(later)


@pytest.mark.parametrize(
    ("peer", "allowed"), [("ipv4:127.0.0.1:1", True), ("ipv4:10.0.0.7:1", False)]
)
async def test_without_a_clients_file_only_this_machine_may_forget(peer, allowed):
    method = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].methods_by_name["Forget"]

    async def answer(_requests: Any, _context: Any, _grant: Any) -> str:
        return "done"

    guarded = Gate(Grants(None, [OURS], encrypted=False), method).guard(answer)
    if allowed:
        assert await guarded(None, Context(peer, "")) == "done"
    else:
        with pytest.raises(CallRefused, match="needs the scope admin"):
            await guarded(None, Context(peer, ""))


async def test_a_change_that_another_has_read_already_is_followed(clients):
    context, file = Context("ipv4:127.0.0.1:1", clients.add("ours")), clients.file()
    grants = Grants(file, [OURS], encrypted=False)
    clients.remove("ours")
    assert file.refresh()  # as a thread of the server that refused calls before may do
    following = asyncio.create_task(grants.follow())

    async def revoked() -> bool:
        with suppress(NotProven):
            return not grants.of(context)
        return True

    await until(revoked)
    following.cancel()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def mutual(
    made: World, clients: Clients, authority: Authority
) -> AsyncIterator[Callable[[Pair], Worker]]:
    """Return a function that connects with a certificate to a worker that knows three clients."""
    clients.add("uri", apps=[OURS], san=("spiffe://x/ours", "ours.example"))
    clients.add("dns", apps=[THEIRS], san=("theirs.example",))
    clients.add("common", apps=[OURS], san=("common",))
    server = authority.issue("server")
    tls = Tls(CertificateFiles(server.chain, server.key, authority.file))
    async with guarded(made, clients, tls=tls) as serving:

        def connect(pair: Pair) -> Worker:
            serving.channel = serving.connect(authority.credentials(pair))
            return serving

        yield connect


@pytest.fixture
def key(clients: Clients) -> str:
    return clients.add("key", apps=[THEIRS])


@pytest.mark.parametrize(
    ("name", "san", "own"),
    [
        ("uri", "URI:spiffe://x/ours,DNS:ours.example", OURS),
        ("dns", "DNS:theirs.example,IP:127.0.0.1", THEIRS),
        ("common", "", OURS),
    ],
)
async def test_a_client_is_known_by_the_names_of_its_certificate(mutual, authority, name, san, own):
    serving = mutual(authority.issue(name, san))
    assert await answer_of(CALLS["GetSession"](serving, own, None))
    error = await refusal(CALLS["GetSession"](serving, OURS + THEIRS - own, None))
    assert reason(error) == "APP_NOT_ALLOWED"


async def test_a_key_that_is_sent_counts_and_not_the_certificate(key, mutual, authority):
    serving = mutual(authority.issue("common", ""))
    assert await answer_of(CALLS["GetSession"](serving, THEIRS, bearer(key)))
    error = await refusal(CALLS["GetSession"](serving, OURS, bearer(new_key("wrong"))))
    assert reason(error) == "UNAUTHENTICATED"


NUL = b"theirs.example\0.evil"


@pytest.mark.parametrize(
    ("name", "san"),
    [
        ("common", "DNS:other.example"),  # its common name does not count beside another name
        ("new", "URI:spiffe://x/theirs"),
        ("nul", f"DER:30:{len(NUL) + 2:x}:82:{len(NUL):x}:{NUL.hex(':')}"),
        ("both", "URI:spiffe://x/ours,DNS:theirs.example"),  # which client is meant?
    ],
)
async def test_a_certificate_that_does_not_name_one_client_is_refused(mutual, authority, name, san):
    serving = mutual(authority.issue(name, san))
    for app in (OURS, THEIRS):
        error = await refusal(CALLS["GetSession"](serving, app, None))
        assert reason(error) == "UNAUTHENTICATED"


async def test_a_certificate_of_another_authority_has_no_connection(mutual, tmp_path):
    forged = Authority(tmp_path, "stranger").issue("uri", "URI:spiffe://x/ours")
    error = await refusal(CALLS["GetSession"](mutual(forged), OURS, None))
    assert error.code() is CODES.UNAVAILABLE


async def test_denials_are_logged_with_what_is_needed_and_without_secrets(made, clients):
    own, narrow = clients.add("ours", apps=[OURS]), clients.add("narrow", scopes=("admin",))
    ended = clients.add("ended", not_after=date(2020, 1, 1))
    wrong, before = new_key("wrong"), AUTH_DENIED.values[("scope_missing",)]
    async with guarded(made, clients) as serving:
        with capture_logs() as lines:
            for app, metadata in (
                (OURS, None),
                (OURS, bearer(wrong)),
                (THEIRS, bearer(own)),
                (OURS, bearer(narrow)),
                (OURS, bearer(ended)),
            ):
                await refusal(CALLS["GetSession"](serving, app, metadata))
    assert AUTH_DENIED.values[("scope_missing",)] == before + 1
    denials = [line for line in lines if line["event"] == "access_denied"]
    assert [(line["reason"], line["client"]) for line in denials] == [
        ("UNAUTHENTICATED", ""),
        ("UNAUTHENTICATED", ""),
        ("APP_NOT_ALLOWED", "ours"),
        ("SCOPE_MISSING", "narrow"),
        ("UNAUTHENTICATED", "ended"),
    ]
    for line in denials:
        assert line["method"] == "desk.v1.SessionService.GetSession"
        assert line["peer"] == "ipv4:127.0.0.1"
    assert not any(key.split("_")[2] in str(lines) for key in (own, narrow, wrong, ended))


async def test_without_a_clients_file_everybody_may_read_everything(made):
    async with worker(made, apps=(OURS, THEIRS)) as serving:
        for call in CALLS.values():
            assert await answer_of(call(serving, THEIRS, None))

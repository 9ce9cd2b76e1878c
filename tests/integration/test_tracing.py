"""Traces: complete, without personal data, and no burden to a process that sends none."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from structlog.testing import capture_logs

from desk.v1.event_service_pb2 import SubscribeRequest
from desk.v1.event_service_pb2_grpc import EventServiceStub
from desk.v1.session_service_pb2 import GetSessionRequest
from desk.v1.session_service_pb2_grpc import SessionServiceStub
from desk.v1.status_pb2 import GetStatusRequest
from desk.v1.status_pb2_grpc import StatusServiceStub
from journal.memory import MemoryJournal
from metrics.tracing import problem, sending
from tests.support.callbacks import APP, NOON, SESSION, body
from tests.support.gateway import Gateway, query
from tests.support.processes import RunningDesk, environment, start
from tests.support.traces import Receiver, receiver
from tests.support.waiting import eventually

CALLER, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{CALLER}-{PARENT}-01"}

TOGETHER = 24
"""Callbacks that are sent at once: they wait for their commits side by side, in greenlets."""

GET_SESSION = "desk.v1.SessionService/GetSession"
TEXT = {"MsgType": "TIMTextElem", "MsgContent": {"Text": "my secret text"}}


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """The spans of a service that was used and then stopped: it sends none before."""
    for _ in range(5):
        with (
            receiver() as received,
            start(
                "serve",
                data_dir=tmp_path_factory.mktemp("traces") / "data",
                OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint,
                OTEL_BSP_SCHEDULE_DELAY="600000",
            ) as desk,
        ):
            desk.ready()
            is_in_time = use(desk)
            assert received.bodies == []
            assert desk.terminate() == 0
            if is_in_time:
                yield received
                return
    pytest.fail("the machine is too busy to keep a few callbacks in time")


def use(desk: RunningDesk) -> bool:
    """Send callbacks and ask; return False if one was not kept in time, on a busy machine."""
    begin, said = body("SessionBegin", NOON), {"MsgBody": [TEXT], "ClientUserId": "my-user"}
    gateway = Gateway(desk.http[1], MemoryJournal())
    message = body("ChatBot.UserSendMsg", NOON + 1, **said)
    answered = {gateway.ask("POST", f"/?{query()}", begin, TRACEPARENT).status}
    with ThreadPoolExecutor(8) as at_once:
        answered |= set(at_once.map(partial(post_traced, gateway), range(1, TOGETHER + 1)))
    answered.add(gateway.ask("POST", f"/?{query()}", message, {}).status)
    if 503 in answered:
        return False
    assert answered == {200}
    assert gateway.ask("POST", f"/my-secret-path?{query()}", begin, {}).status == 404
    eventually(lambda: gateway.ask("GET", "/readyz", b"", {}).status == 200)
    with grpc.insecure_channel(desk.target) as channel:
        sessions, status = SessionServiceStub(channel), StatusServiceStub(channel)
        status.GetStatus(GetStatusRequest())
        wanted = GetSessionRequest(sdk_app_id=APP, session_id=SESSION, min_revision=TOGETHER + 2)
        sessions.GetSession(wanted, metadata=tuple(TRACEPARENT.items()))
        with pytest.raises(grpc.RpcError):
            sessions.GetSession(GetSessionRequest(sdk_app_id=APP, session_id="unknown"))
        stream = EventServiceStub(channel).Subscribe(SubscribeRequest())
        next(stream)
        stream.cancel()
    return True


def post_traced(gateway: Gateway, number: int) -> int:
    message = body("ChatBot.UserSendMsg", NOON + 1_000 * number)
    traceparent = {"traceparent": f"00-{number:032x}-{PARENT}-01"}
    return gateway.ask("POST", f"/?{query()}", message, traceparent).status


def test_a_callback_is_a_span_of_its_senders_trace_and_its_append_a_part_of_it(
    traces: Receiver,
) -> None:
    request, *others = traces.spans("POST /")
    assert (request.span.trace_id.hex(), request.span.parent_span_id.hex()) == (CALLER, PARENT)
    assert request.span.kind == Span.SPAN_KIND_SERVER
    assert request.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/",
        "url.path": "/",
        "url.scheme": "http",
    }
    assert request.resource["service.name"] == "desk-gateway"
    assert len(others) == TOGETHER + 1
    requests = {each.span.trace_id: each.span.span_id for each in (request, *others)}
    appends = {each.span.trace_id: each.span.parent_span_id for each in traces.spans("append")}
    assert appends == requests
    assert requests.keys() > {number.to_bytes(16, "big") for number in range(1, TOGETHER + 1)}


def test_a_batch_of_the_follower_is_a_span(traces: Receiver) -> None:
    batches = traces.spans("fold")
    assert sum(each.attributes["desk.entries"] for each in batches) == TOGETHER + 2
    assert {each.resource["service.name"] for each in batches} == {"desk-follower"}


def test_a_unary_call_is_a_span_of_its_callers_trace(traces: Receiver) -> None:
    found, unknown = traces.spans(GET_SESSION)
    assert (found.span.trace_id.hex(), found.span.parent_span_id.hex()) == (CALLER, PARENT)
    assert found.span.kind == Span.SPAN_KIND_SERVER
    assert found.resource["service.name"] == "desk-rpc"
    assert found.resource["desk.process"] == "rpc-1"
    assert found.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": GET_SESSION,
        "rpc.response.status_code": "OK",
    }
    assert unknown.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert unknown.span.status.code == Status.STATUS_CODE_UNSET  # the caller's error, not ours


def test_nothing_else_is_traced_and_nothing_personal_sent(traces: Receiver) -> None:
    names = {each.span.name for each in traces.everything()}
    assert names == {
        "POST /",
        "POST",
        "append",
        "fold",
        GET_SESSION,
        "desk.v1.StatusService/GetStatus",
    }
    sent = b"".join(traces.bodies)
    for personal in (SESSION, "my-user", "my secret text", "my-secret-path", "127.0.0.1"):
        assert personal.encode() not in sent


def test_a_process_stops_in_time_although_nobody_takes_its_spans(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "10"}
        with start("gateway", data_dir=tmp_path / "data", **settings) as desk:
            assert desk.post(body("SessionBegin", NOON))[0] == 200
            silent.accept()[0].close()  # the exporter has begun; from here on nobody answers
            assert desk.post(body("SessionEnd", NOON + 1))[0] == 200
            assert desk.terminate() == 0


def test_a_variable_that_opentelemetry_refuses_keeps_no_process_from_its_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    with capture_logs() as logged, sending("gateway"):
        pass
    assert [each["event"] for each in logged] == ["not_traced"]
    assert "max_queue_size" in logged[0]["reason"]


def test_a_protocol_that_is_not_spoken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    assert problem() == ""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert problem() == "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf"


OFF = """
import sys
from metrics import tracing
app = behaviour = object()
with tracing.sending("gateway"), tracing.span("append"):
    assert tracing.traced_app(app, "/", []) is app
    assert tracing.traced_call("a.B/C", behaviour) is behaviour
assert not any(name.startswith("opentelemetry") for name in sys.modules)
"""


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_without_tracing_nothing_is_imported_or_wrapped(settings: dict[str, str]) -> None:
    command: list[Any] = [sys.executable, "-c", OFF]
    subprocess.run(command, env=environment(settings), check=True, timeout=60)

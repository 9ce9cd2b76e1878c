"""The page of metrics: complete, true, bounded, and no burden to anybody."""

import json
import os
import re
import signal
import socket
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
from falcon.testing import create_environ
from prometheus_client import CollectorRegistry, generate_latest
from ruamel.yaml import YAML

from desk.v1.event_service_pb2 import SubscribeRequest, SubscribeResponse
from desk.v1.event_service_pb2_grpc import EventServiceStub
from desk.v1.session_service_pb2 import GetSessionRequest
from desk.v1.session_service_pb2_grpc import SessionServiceStub
from desk.v1.status_pb2 import GetStatusRequest, GetStatusResponse
from desk.v1.status_pb2_grpc import StatusServiceStub
from gateway.app import create_app
from gateway.authentication import Authenticator
from gateway.measurement import ARRIVED
from journal.errors import Overloaded, Unavailable
from journal.memory import MemoryJournal
from metrics import definitions
from metrics.definitions import GATEWAY
from metrics.endpoint import open_endpoint
from metrics.page import MAX_CONNECTIONS, serve_page
from tests.support.callbacks import APP, NOON, body
from tests.support.commands import invoke
from tests.support.gateway import CALLBACK, FailingJournal, StallingJournal, gateway, query, sign
from tests.support.processes import ROOT, RunningDesk, is_running, start
from tests.support.scrape import Page, get, scrape
from tests.support.waiting import eventually

SIGNED = 1600012346
"""The app of the tests that has a token."""


class Late(Exception):
    """A callback was not kept in time, on a busy machine: it is sent again, and counted twice."""


@dataclass
class Measured:
    """A service, and its page of metrics after some traffic.

    Attributes:
        traffic: callbacks that were sent, by app and outcome.
        messages: that were read from a stream until the page.
    """

    desk: RunningDesk
    traffic: Counter[tuple[str, str]]
    page: Page
    messages: int


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    """A whole service, with two apps and a page of metrics, of which no callback was late."""
    for _ in range(5):
        with start(
            "serve",
            data_dir=tmp_path_factory.mktemp("metrics") / "data",
            DESK_METRICS_LISTEN="127.0.0.1:0",
            DESK_SDK_APP_IDS=f"{APP},{SIGNED}",
            DESK_CALLBACK_TOKENS=f"{SIGNED}=secret",
            DESK_RETENTION="400d",
        ) as running:
            running.ready()
            with suppress(Late):
                traffic = send_callbacks(running)
                yield Measured(running, traffic, *page_after_calls(running, traffic))
                return
    pytest.fail("the machine is too busy to keep a few callbacks in time")


@pytest.fixture(scope="module")
def desk(measured: Measured) -> RunningDesk:
    return measured.desk


@pytest.fixture(scope="module")
def traffic(measured: Measured) -> Counter[tuple[str, str]]:
    return measured.traffic


@pytest.fixture(scope="module")
def page(measured: Measured) -> Page:
    return measured.page


def send_callbacks(desk: RunningDesk) -> Counter[tuple[str, str]]:
    """Send callbacks of every kind that one can send; return them by app and outcome."""
    expected: Counter[tuple[str, str]] = Counter()

    def send(outcome: str, status: int, *, app: str = str(APP), **request: Any) -> None:
        expected[app, outcome] += 1
        answered = request_of(desk, **request)
        if (status, answered) == (200, 503):
            raise Late
        assert answered == status, outcome

    ours, now = str(SIGNED), str(int(time.time()))
    for number in range(7):
        send("kept", 200, body=body("ChatBot.UserSendMsg", NOON + 1000 * (number + 1)))
    send("kept", 200, body=body("SessionBegin", NOON))  # late, and changes seven verdicts
    for _ in range(2):
        send("duplicate", 200, body=body("SessionBegin", NOON))
    send("malformed", 400, body=b"nonsense")
    signature = {"SdkAppid": ours, "RequestTime": now}
    send("kept", 200, app=ours, **signature, Sign=sign("secret", now))
    send("refused_signature", 403, app=ours, **signature, Sign=sign("wrong", now))
    send("refused_signature", 403, app=ours, SdkAppid=ours)
    send("stale", 403, app=ours, SdkAppid=ours, RequestTime="1000000000", Sign="0" * 64)
    send("refused_app", 403, app="other", SdkAppid="4711")
    send("refused_app", 403, app="other", SdkAppid=None)
    send("wrong_command", 400, CallbackCommand="Desk.Else")
    send("wrong_path", 404, app="other", path="/else")
    send("wrong_method", 405, app="other", method="PUT")
    send("too_large", 413, app="other", body=b"x" * 300_000)
    send("encoded", 415, app="other", headers={"Content-Encoding": "gzip"})
    return expected


def request_of(
    desk: RunningDesk,
    *,
    body: bytes = CALLBACK,
    method: str = "POST",
    path: str = "/",
    headers: Any = (),
    **parameters: Any,
) -> int:
    from tests.support.gateway import Gateway

    port = desk.http[1]
    target = f"{path}?{query(**parameters)}"
    return Gateway(port, MemoryJournal()).ask(method, target, body, dict(headers)).status


def page_after_calls(desk: RunningDesk, traffic: Counter[tuple[str, str]]) -> tuple[Page, int]:
    """Return the page after that traffic, some calls, a live stream and one callback more.

    The number is that of the stream's messages until then, checkpoints included.
    """
    with grpc.insecure_channel(desk.target) as channel:
        sessions, status = SessionServiceStub(channel), StatusServiceStub(channel)
        for _ in range(3):
            status.GetStatus(GetStatusRequest())
        with pytest.raises(grpc.RpcError):
            sessions.GetSession(GetSessionRequest(sdk_app_id=APP, session_id="unknown"))
        eventually(lambda: status.GetStatus(GetStatusRequest()).lag == 0)
        stream = EventServiceStub(channel).Subscribe(SubscribeRequest())
        with reading(stream) as messages:
            eventually(lambda: messages)
            assert messages[0].HasField("caught_up")
            answered = request_of(desk, body=body("SessionEnd", NOON + 60_000))
            if answered == 503:
                raise Late
            assert answered == 200
            traffic[str(APP), "kept"] += 1
            eventually(lambda: any(each.HasField("records") for each in messages))
            return eventually(lambda: complete_page(desk, traffic.total(), messages))


@contextmanager
def reading(stream: Any) -> Iterator[list[SubscribeResponse]]:
    """Give the messages of a stream, which is read by a thread."""
    messages: list[SubscribeResponse] = []

    def read() -> None:
        with suppress(grpc.RpcError):  # it is cancelled
            for message in stream:
                messages.append(message)

    thread = Thread(target=read)
    thread.start()
    try:
        yield messages
    finally:
        stream.cancel()
        thread.join()


def complete_page(
    desk: RunningDesk, requests: int, messages: list[SubscribeResponse]
) -> tuple[Page, int] | None:
    """Return a page with all processes, and with what is counted a moment after an answer.

    None if a process was too late on a busy machine, or if a message came meanwhile.
    """
    read = len(messages)
    page = scrape(desk.ready()["metrics"])
    counted = (
        page.values_of_labels()["process"] == {"gateway", "follower", "rpc-1"}
        and page.value("desk_stream_delay_seconds_count") == 1
        and page.value("grpc_server_msg_sent_total", grpc_method="Subscribe") == read
        and page.value("http_server_request_duration_seconds_count") >= requests
        and page.value("desk_records_total") == page.value("desk_journal_head_revision")
        and page.value("desk_follower_lag_entries") == 0
        and page.value("desk_sessions", state="ended") == 1
    )
    return (page, read) if counted and read == len(messages) else None


CONDITIONAL = {
    "desk_auth_denied_total",
    "desk_certificate_not_after_timestamp_seconds",
    "desk_spool_entries",
    "desk_spool_oldest_seconds",
}
"""Metrics that have samples only with a clients file, with TLS, or with a spool."""

ON_NATS = {
    "desk_snapshot_timestamp_seconds",
    "desk_snapshot_revision",
    "desk_snapshot_failures_total",
}
"""Metrics of a process that is there only with the journal on NATS: see test_snapshots.py."""


def documented() -> dict[str, tuple[str, set[str]]]:
    """By name, type and labels of each metric in docs/metrics.md."""
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \| ([\w, ]*?) ?\|", (ROOT / "docs/metrics.md").read_text(), re.M
    )
    return {name: (kind, {*labels.split(", ")} - {""}) for name, kind, labels in rows}


def test_every_documented_metric_is_on_the_page_with_its_labels(page):
    assert len(documented()) > 30
    assert documented().keys() >= ON_NATS
    for name, (kind, labels) in documented().items():
        if name in ON_NATS:
            continue
        metric = page.metrics[name]
        assert metric.type == kind
        if name in CONDITIONAL:
            continue
        assert metric.samples, name
        found = {label for sample in metric.samples for label in sample.labels}
        assert found - {"le"} == labels | {"process"}, name


def test_every_metric_of_ours_is_documented(page):
    ours = {name for name in page.metrics if name.startswith(("desk_", "grpc_", "http_"))}
    assert ours <= documented().keys()


def test_the_counters_agree_with_what_was_sent(page, traffic):
    counted = {
        (labels["app"], labels["outcome"]): value
        for labels, value in (
            (dict(key), value) for key, value in page.samples("desk_callbacks_total").items()
        )
    }
    assert {key: number for key, number in counted.items() if number} == traffic
    assert counted.keys() == set(
        product([str(APP), str(SIGNED), "other"], definitions.CALLBACK_OUTCOMES)
    )
    assert page.value("http_server_request_duration_seconds_count") == traffic.total()


def test_the_journal_and_the_view_count_what_the_gateway_kept(page, traffic):
    kept = sum(number for (_, outcome), number in traffic.items() if outcome == "kept") + 1
    appends = kept + traffic[str(APP), "duplicate"]
    assert page.value("desk_journal_head_revision") == kept
    assert page.value("desk_journal_duplicates_total", found="append") == appends - kept
    assert page.value("desk_journal_append_duration_seconds_count") == appends
    assert page.value("desk_journal_commit_entries_sum") == appends
    assert page.value("desk_follower_applied_revision") == kept
    assert page.value("desk_follower_lag_entries") == 0
    assert page.value("desk_records_total") == kept
    assert page.value("desk_records_total", reason="malformed") == 1
    assert page.value("desk_records_revised_total") == 7
    assert page.value("desk_late_seconds_count") == 1
    assert page.value("desk_late_seconds_sum") == 7
    assert page.value("desk_journal_damaged_entries") == 0


def test_the_sessions_are_counted_by_the_follower_alone(page):
    assert page.value("desk_sessions", app=str(APP), state="ended", process="follower") == 1
    assert page.value("desk_sessions", app=str(APP)) == 1
    assert page.value("desk_queue_longest_wait_seconds") == 0


def test_the_last_use_of_a_token_and_the_free_space_are_shown(page):
    used = {"app": str(SIGNED), "token": "1", "process": "gateway"}
    [(labels, used_at)] = page.samples("desk_callback_token_last_used_timestamp_seconds").items()
    assert labels == frozenset(used.items())
    assert abs(time.time() - used_at) < 600
    assert 0 < page.value("desk_disk_free_bytes") <= page.value("desk_disk_size_bytes")


def test_calls_are_counted_by_method_and_status(page, measured):
    refused = {"grpc_method": "GetSession", "grpc_service": "desk.v1.SessionService"}
    assert page.value("grpc_server_handled_total", **refused, grpc_code="NotFound") == 1
    answered = page.value("grpc_server_handled_total", grpc_method="GetStatus", grpc_code="OK")
    assert answered >= 4
    assert page.value("grpc_server_msg_sent_total", grpc_method="GetStatus") == answered
    subscribed = {"grpc_method": "Subscribe", "grpc_type": "server_stream"}
    assert page.value("grpc_server_started_total", **subscribed) == 1
    assert page.value("grpc_server_msg_sent_total", **subscribed) == measured.messages
    assert page.value("desk_streams_open") == 1
    assert page.value("desk_stream_delay_seconds_count") == 1


def test_each_process_has_its_own_samples(page):
    assert page.values_of_labels()["process"] == {"gateway", "follower", "rpc-1"}
    started = page.samples("process_start_time_seconds")
    assert len(started) == 3
    assert all(abs(time.time() - value) < 600 for value in started.values())


def test_other_paths_and_methods_are_not_found(desk):
    address = desk.ready()["metrics"]
    assert get(address, "/")[0] == 404
    assert get(address, "/metrics", "POST")[0] == 404
    assert get(address, "/metrics?name=x")[0] == 200


def processes(address: str) -> set[str]:
    return scrape(address).values_of_labels()["process"]


def test_a_process_that_hangs_is_left_out_and_holds_nobody_up(desk):
    address = desk.ready()["metrics"]
    pid = desk.wait_for(lambda record: record.get("name") == "follower")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        scrape(address)
        assert time.monotonic() - began < 30
        eventually(lambda: processes(address) == {"gateway", "rpc-1"})
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: "follower" in processes(address))


@pytest.mark.tools
def test_the_runtime_folder_is_private_and_goes_with_the_service(tmp_path):
    with (
        tempfile.TemporaryDirectory() as folder,
        start(
            "serve",
            data_dir=tmp_path / "data",
            DESK_METRICS_LISTEN="127.0.0.1:0",
            TMPDIR=folder,
        ) as running,
    ):
        address = running.ready()["metrics"]
        (runtime,) = Path(folder).glob("desk-*")
        assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
        pid = running.wait_for(lambda record: record.get("name") == "rpc-1")["pid"]
        os.kill(pid, signal.SIGKILL)  # its socket stays
        eventually(lambda: not is_running(pid))
        eventually(lambda: "rpc-1" in processes(address))
        assert running.terminate() == 0
        assert not runtime.exists()


def test_a_page_that_cannot_be_served_keeps_nobody_from_serving(tmp_path):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with start("gateway", data_dir=tmp_path / "data", DESK_METRICS_LISTEN=address) as running:
            assert running.ready()["metrics"] == ""
            warned = running.wait_for(lambda record: record["event"] == "metrics_not_served")
            assert "DESK_METRICS_LISTEN: cannot listen" in warned["reason"]
            assert running.terminate() == 0


@pytest.fixture
def served(tmp_path: Path) -> tuple[str, int]:
    listener = socket.create_server(("127.0.0.1", 0))
    serve_page(listener, tmp_path)
    address: tuple[str, int] = listener.getsockname()
    return address


def test_a_client_that_sends_nothing_is_hung_up_on(served):
    with socket.create_connection(served, timeout=60) as silent:
        silent.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert silent.recv(100) == b""


def test_a_request_that_is_too_long_is_hung_up_on(served):
    with socket.create_connection(served, timeout=60) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n" + b"x" * 20_000)
        with suppress(ConnectionResetError):
            assert client.recv(100) == b""


def test_connections_beyond_the_limit_are_closed_at_once(served):
    def is_closed_before_the_others() -> bool:
        with ExitStack() as clients:
            first, *_, beyond = (
                clients.enter_context(socket.create_connection(served, timeout=60))
                for _ in range(MAX_CONNECTIONS + 1)
            )
            assert beyond.recv(100) == b""
            first.setblocking(False)
            with suppress(BlockingIOError):
                return bool(first.recv(100))
            return True

    # On a busy machine the time of the others may be over too.
    assert any(is_closed_before_the_others() for _ in range(5))


def answering(address: str) -> set[str]:
    """The processes on a page. Under load one may need longer to answer than a page waits."""
    return scrape(address).values_of_labels()["process"]


def test_a_socket_of_a_dead_process_is_left_out(tmp_path):
    with tempfile.TemporaryDirectory() as folder:
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(f"{folder}/gateway.sock")
        dead.close()
        listener = socket.create_server(("127.0.0.1", 0))
        serve_page(listener, Path(folder))
        address = "{}:{}".format(*listener.getsockname())
        assert scrape(address).metrics == {}
        open_endpoint(Path(folder), "gateway", GATEWAY)  # started again
        eventually(lambda: answering(address) == {"gateway"})


def test_a_page_that_ends_too_early_is_left_out(tmp_path):
    """As of a process that is killed while it answers."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(socket.socket(socket.AF_UNIX)) as killed,
    ):
        killed.bind(f"{folder}/rpc-1.sock")
        killed.listen()

        def answer() -> None:
            with suppress(OSError):  # until it is closed
                while True:
                    connection, _ = killed.accept()
                    with connection:
                        connection.sendall(b"# TYPE desk_streams_open gauge\ndesk_streams_open 1")

        Thread(target=answer, daemon=True).start()
        open_endpoint(Path(folder), "gateway", GATEWAY)
        listener = socket.create_server(("127.0.0.1", 0))
        serve_page(listener, Path(folder))
        address, seen = "{}:{}".format(*listener.getsockname()), Counter[str]()

        def is_seen_often() -> bool:
            seen.update(answering(address))
            return seen["gateway"] == 3

        eventually(is_seen_often)
        assert set(seen) == {"gateway"}


def counted() -> Page:
    """The gateway's metrics of this process."""
    registry = CollectorRegistry()
    for instrument in GATEWAY:
        registry.register(instrument)
    return Page(generate_latest(registry).decode())


def outcome(name: str) -> float:
    return counted().value("desk_callbacks_total", app=str(APP), outcome=name)


@pytest.mark.parametrize(
    ("error", "name"),
    [(Overloaded("full"), "overloaded"), (Unavailable("gone"), "unavailable")],
)
def test_a_callback_that_is_not_kept_counts_by_the_cause(error, name):
    before = outcome(name)
    with gateway(FailingJournal(error)) as running:
        running.post().assert_fail(503)
    assert outcome(name) == before + 1


def test_a_callback_that_the_disk_does_not_confirm_counts_as_timed_out():
    before = outcome("timed_out")
    journal = StallingJournal()
    with closing(journal), gateway(journal, budget=0.2) as running:

        def is_counted() -> bool:
            """Send a callback; on a busy machine its time may be over before the disk has it."""
            running.post().assert_fail(503)
            return outcome("timed_out") == before + 1

        eventually(is_counted)


def test_labels_stay_few_whatever_is_sent():
    app = create_app(MemoryJournal(), Authenticator(frozenset({APP}), {}))

    def call(method: str, path: str, sdk_app_id: int) -> None:
        environ = create_environ(
            method=method, path=path, query_string=query(SdkAppid=sdk_app_id), body=""
        )
        environ["wsgi.input"], environ[ARRIVED] = BytesIO(), time.monotonic()
        list(app(environ, lambda *_: None))

    before = counted().values_of_labels()
    for number in range(1_000):
        call("POST", "/", number + 1)
        call("POST", f"/path-{number}", APP)
        call(f"METHOD{number}", "/", APP)
    after = counted().values_of_labels()

    def new(label: str) -> set[str]:
        return after[label] - before[label]

    assert new("app") <= {"other"}
    assert new("outcome") <= {"refused_app", "wrong_path", "wrong_method"}
    assert new("http_request_method") <= {"POST", "_OTHER"}
    assert new("http_route") <= {"/", ""}
    assert new("http_response_status_code") <= {"403", "404", "405"}


@pytest.mark.usefixtures("page")
def test_status_shows_the_traffic_of_each_app_and_the_space_on_disk(desk, traffic):
    def reported() -> Counter[tuple[str, str]]:
        counts: Counter[tuple[str, str]] = Counter()
        for app in status().gateway.apps:
            for each in app.outcomes:
                counts[str(app.sdk_app_id or "other"), each.outcome] = each.number
        return counts

    with grpc.insecure_channel(desk.target) as channel:
        service = StatusServiceStub(channel)

        def status() -> GetStatusResponse:
            return service.GetStatus(GetStatusRequest())

        def size_is_that_of_the_page() -> bool:
            disk = status().disk_usage
            of_page = scrape(desk.ready()["metrics"]).value("desk_journal_size_bytes")
            return disk.journal_bytes + disk.journal_wal_bytes == of_page > 0

        eventually(lambda: reported() == traffic)
        eventually(size_is_that_of_the_page)
        ours, signed, _ = status().gateway.apps
        disk = status().disk_usage
    assert (ours.signatures_checked, signed.signatures_checked) == (False, True)
    assert abs(time.time() - ours.last_callback_at.ToSeconds()) < 600
    assert disk.view_bytes + disk.view_wal_bytes > 0
    text = invoke("status", target=desk.target).stdout
    traffic_of_app = (
        rf"^app {SIGNED} +signatures checked\n  last callback +.+\n  callbacks +kept 1, "
    )
    assert re.search(traffic_of_app, text, re.M)
    assert re.search(r"^journal on disk +[\d.]+ .?B, WAL [\d.]+ .?B$", text, re.M)
    assert re.search(r"^other requests +encoded 1, ", text, re.M)


def samples_of(query: str) -> set[str]:
    """Return the names of the samples in a query of Prometheus's language."""
    without_labels = re.sub(r"\{[^}]*\}|\bby \([^)]*\)", "", query)
    return set(re.findall(r"\b(?:desk|grpc|http|process|python)_[a-z_]+\b", without_labels))


def test_every_metric_of_the_dashboard_is_on_the_page(page):
    dashboard = json.loads((ROOT / "deploy/grafana/desk.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    wanted = set().union(*map(samples_of, queries))
    assert len(wanted) > 20
    assert wanted - ON_NATS <= page.names_of_samples()


def test_every_metric_of_the_alerts_is_on_the_page(page):
    rules = YAML(typ="safe").load(ROOT / "deploy/prometheus/desk.rules.yml")["groups"][0]["rules"]
    wanted = set().union(*(samples_of(rule["expr"]) for rule in rules))
    assert len(wanted) > 5
    assert wanted - CONDITIONAL - ON_NATS <= page.names_of_samples()
    runbook = (ROOT / "docs/metrics.md").read_text()
    assert [rule["alert"] for rule in rules] == re.findall(r"^\| `(Desk\w+)` \|", runbook, re.M)


def test_the_title_of_a_process_says_which_one_it_is(desk):
    started = [each for each in desk.records if each["event"] == "process_started"]
    pids = {each["name"]: each["pid"] for each in started} | {"supervisor": desk.pid}
    for name, pid in pids.items():
        title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
        assert title == f"desk: {name}"

"""`desk serve`, `desk gateway` and `desk service` as real processes: start, crash, stop."""

import http.client
import os
import re
import resource
import signal
import socket
from contextlib import contextmanager

import grpc
import pytest

from desk.v1.status_pb2 import ListSubscribersRequest
from desk.v1.status_pb2_grpc import StatusServiceStub
from service.view.store import locate
from tests.support.commands import invoke
from tests.support.processes import SDK_APP_ID, is_running, run, start, wait_until
from tests.support.waiting import eventually, last_answer

pytestmark = pytest.mark.tools

BEGIN_AT = 1_725_540_020_000


def begin(session_id):
    return {"SessionId": session_id, "Event": "SessionBegin", "EventTime": BEGIN_AT}


def pid_of(running, name):
    started = [r for r in running.records if r["event"] == "process_started" and r["name"] == name]
    return started[-1]["pid"]


def times(running, event, name):
    return sum(r["event"] == event and r.get("name") == name for r in running.records)


def state(running, session_id):
    """The session's state as the service tells it; waits until it has begun."""
    found = invoke("sessions", "wait", session_id, "--state", "CHATBOT", "--json",
                   target=running.target)  # fmt: skip
    return found.returncode, found.stdout


@pytest.fixture
def serve(tmp_path):
    with start("serve", data_dir=tmp_path / "data") as running:
        running.ready()
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """For tests that leave the supervisor as it is; they may kill its children."""
    with start("serve", data_dir=tmp_path_factory.mktemp("shared") / "data") as running:
        running.ready()
        yield running


@contextmanager
def restarted(running, name):
    """Kill a child; in the end, wait for the next one."""
    before = times(running, "process_ready", name)
    os.kill(pid_of(running, name), signal.SIGKILL)
    yield
    wait_until(lambda: times(running, "process_ready", name) == before + 1)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_serve_stops_with_0_in_time_and_leaves_no_process(serve, signum):
    children = serve.children()
    assert len(children) >= 3
    assert serve.terminate(signum) == 0  # it is 1 if anything had to be killed after 9 s
    wait_until(lambda: not any(map(is_running, children)))


def test_ctrl_c_in_a_terminal_stops_serve_without_a_traceback(serve):
    serve.interrupt_group()
    assert serve.wait() == 0
    assert "Traceback" not in serve.output


def test_the_gateway_comes_back_on_the_same_port_with_what_it_acknowledged(shared):
    assert shared.post(begin("before"))[0] == 200
    with restarted(shared, "gateway"):
        pass
    assert shared.post(begin("after"))[0] == 200
    assert state(shared, "before")[0] == state(shared, "after")[0] == 0


def test_connections_wait_while_the_gateway_is_restarted(shared):
    with restarted(shared, "gateway"):
        assert shared.post(begin("meanwhile"))[0] == 200


def test_a_gateway_that_comes_back_to_a_full_disk_waits_until_it_is_not(serve):
    assert serve.post(begin("before"))[0] == 200
    limits = resource.prlimit(serve.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(serve.pid, resource.RLIMIT_FSIZE, (1, limits[1]))  # children inherit it
    os.kill(pid_of(serve, "gateway"), signal.SIGKILL)
    waiting = serve.wait_for(lambda record: record["event"] == "waiting_for_journal" and
                             record["process"] == "gateway")  # fmt: skip
    assert waiting["reason"]
    resource.prlimit(pid_of(serve, "gateway"), resource.RLIMIT_FSIZE, limits)
    wait_until(lambda: serve.post(begin("after"))[0] == 200)
    assert times(serve, "process_died", "gateway") == 1
    assert state(serve, "before")[0] == state(serve, "after")[0] == 0


def open_files(soft, hard):
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_of_open_files_is_raised_for_every_process(tmp_path):
    with start("serve", data_dir=tmp_path / "data", prepare=open_files(64, 777)) as running:
        running.ready()
        for pid in [running.pid, *running.children()]:
            assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (777, 777)
        assert not any(record["event"] == "few_open_files" for record in running.records)


def test_few_open_files_are_one_warning_and_serve_what_they_can(tmp_path):
    with start("serve", data_dir=tmp_path / "data", prepare=open_files(128, 128)) as running:
        running.ready()
        (warning,) = [r for r in running.records if r["event"] == "few_open_files"]
        assert (warning["limit"], warning["connections_each_about"]) == (128, 88)
        assert running.post(begin("a"))[0] == 200
        assert state(running, "a")[0] == 0
        assert running.terminate() == 0


@pytest.mark.parametrize("command", ["serve", "gateway", "service"])
def test_too_few_open_files_are_one_line(tmp_path, command):
    with start(command, data_dir=tmp_path / "data", prepare=open_files(40, 40)) as running:
        assert running.wait() == 2
        assert running.stderr == ["desk: ulimit -n allows 40 open files; at least 56 are needed"]


def test_a_first_start_is_nothing_to_be_warned_of(shared):
    events = [record["event"] for record in shared.records]
    first_start = shared.records[: events.index("ready")]
    warnings = [each for each in first_start if each["level"] not in ("debug", "info")]
    # A busy machine may well let processes be silent while they start.
    assert not [each for each in warnings if each["event"] != "silent_processes"]


def test_a_follower_that_cannot_begin_is_a_failed_start(tmp_path):
    data_dir = tmp_path / "data"
    with start("gateway", data_dir=data_dir) as gateway:
        gateway.ready()
        locate(data_dir).mkdir()
        with start("service", data_dir=data_dir) as service:
            assert service.wait() == 1
            assert times(service, "process_ready", "follower") == 0
            died = r"desk: (follower|rpc-1) died 5 times while starting: .+"
            assert re.fullmatch(died, service.stderr[-1])


@pytest.mark.parametrize("name", ["follower", "rpc-1"])
def test_a_killed_process_of_the_service_comes_back_and_works(shared, name):
    with restarted(shared, name):
        pass
    assert shared.post(begin(f"after-{name}"))[0] == 200
    assert state(shared, f"after-{name}")[0] == 0


@pytest.mark.parametrize("command", ["serve", "gateway", "service"])
def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path, command):
    with start(command, data_dir=tmp_path / "data") as running:
        first = "follower" if command == "service" else "gateway"
        wait_until(lambda: times(running, "process_started", first) == 1)
        children = running.children()
        assert children
        os.kill(running.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, children)))


def test_a_second_gateway_on_the_same_directory_is_refused_in_one_line(tmp_path):
    with start("gateway", data_dir=tmp_path / "data") as first:
        first.ready()
        with start("gateway", data_dir=tmp_path / "data") as second:
            assert second.wait() == 1
            assert second.stderr[-1].startswith("desk: gateway: another process is writing ")
        assert first.post(begin("a"))[0] == 200


@pytest.mark.parametrize(
    ("command", "variable"), [("gateway", "DESK_HTTP_LISTEN"), ("service", "DESK_GRPC_LISTEN")]
)
def test_a_port_that_is_taken_is_one_line(tmp_path, command, variable):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run(
            command, DESK_SDK_APP_IDS="1", DESK_DATA_DIR=str(tmp_path), **{variable: address}
        )
    assert result.returncode == 2
    assert (
        result.stderr == f"desk: {variable}: cannot listen on {address}: Address already in use\n"
    )


def test_a_second_service_does_not_share_the_port_of_the_first(tmp_path, shared):
    result = run(
        "service",
        DESK_SDK_APP_IDS="1",
        DESK_DATA_DIR=str(tmp_path / "b"),
        DESK_GRPC_LISTEN=shared.target,
    )
    assert result.returncode == 2
    assert "Address already in use" in result.stderr


def missing_workers(running):
    """The number of workers that do not tell the one that answers about their streams."""
    with grpc.insecure_channel(running.target) as channel:
        return StatusServiceStub(channel).ListSubscribers(ListSubscribersRequest()).missing_workers


def test_several_workers_share_the_port_and_it_survives_each(tmp_path):
    with start("serve", data_dir=tmp_path / "data", DESK_RPC_WORKERS="2") as running:
        running.ready()
        assert running.post(begin("a"))[0] == 200
        os.kill(pid_of(running, "rpc-2"), signal.SIGKILL)
        # The kernel may have given a connection to the one that dies.
        wait_until(lambda: state(running, "a")[0] == 0)
        wait_until(lambda: times(running, "process_ready", "rpc-2") == 2)
        wait_until(lambda: state(running, "a")[0] == 0)
        wait_until(lambda: missing_workers(running) == 0)


def test_gateway_and_service_work_as_two_commands_whichever_starts_first(tmp_path):
    data_dir = tmp_path / "data"
    with start("service", data_dir=data_dir) as service:
        service.wait_for(lambda record: record["event"] == "waiting_for_journal")
        with start("gateway", data_dir=data_dir) as gateway:
            assert gateway.post(begin("a"))[0] == 200
            assert state(service, "a")[0] == 0
            assert gateway.terminate() == 0
        assert state(service, "a")[0] == 0
        assert service.terminate() == 0


def test_health_says_by_its_exit_code_who_is_ready(shared):
    host, port = shared.http
    gateway, service = f"http://{host}:{port}/readyz", shared.target
    # On a busy machine a process may just have been silent.
    eventually(lambda: invoke("health", "gateway", gateway).returncode == 0)
    own = f"{host}:{port}"
    eventually(lambda: invoke("health", "gateway", DESK_HTTP_LISTEN=own).returncode == 0)
    eventually(lambda: invoke("health", "service", service).returncode == 0)
    eventually(lambda: invoke("health", "service", DESK_GRPC_LISTEN=service).returncode == 0)
    nobody = "127.0.0.1:1"
    for role, address in (("gateway", f"http://{nobody}/readyz"), ("service", nobody)):
        answer = invoke("health", role, address)
        assert answer.returncode == 1
        assert answer.stderr.startswith("desk: not ready: ")
        assert answer.stderr.count("\n") == 1


def test_no_question_goes_through_a_proxy_of_the_environment(shared):
    url = shared.url
    dead = dict.fromkeys(("grpc_proxy", "http_proxy", "https_proxy"), "http://127.0.0.1:1")
    proxy = {**dead, "no_proxy": "", "no_grpc_proxy": ""}
    for question in (
        ("health", "gateway", f"{url}readyz"),
        ("health", "service", shared.target),
        ("status", "--target", shared.target),
        ("simulate", url, "--app", str(SDK_APP_ID), "--sessions", "1", "--verify", shared.target),
    ):
        answer = last_answer(lambda question=question: run(*question, **proxy), is_final)
        assert answer.returncode == 0, answer.stderr + answer.stdout


def is_final(answer):
    """Return True for success, and for differences that `simulate --verify` found.

    On a busy machine a callback may be late, and a process may just have been silent.
    """
    return answer.returncode == 0 or re.search(r"^\d.* differences?: ", answer.stdout, re.M)


def test_wrong_settings_are_exit_code_2_and_a_line_each_without_the_token(tmp_path):
    result = run("serve", cwd=tmp_path, DESK_RPC_WORKERS="0", DESK_CALLBACK_TOKENS="hush-4711")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "desk: DESK_CALLBACK_TOKENS entry 1 is not of the form appid=token",
        "desk: DESK_RPC_WORKERS must be a whole number from 1 to 64, not '0'",
    ]


def test_a_token_is_in_no_output_and_no_command_line(tmp_path):
    tokens = f"{SDK_APP_ID}=hush-4711"
    with start("serve", data_dir=tmp_path / "data", DESK_CALLBACK_TOKENS=tokens) as running:
        running.ready()
        assert running.post(begin("a"))[0] == 403
        for pid in [running.pid, *running.children()]:
            with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
                assert b"hush-4711" not in cmdline.read()
        running.terminate()
        assert "hush-4711" not in running.output


def test_a_warning_names_the_setting_that_was_probably_meant(tmp_path):
    with start("gateway", data_dir=tmp_path / "data", DESK_RPC_WORKER="2") as running:
        warning = running.wait_for(lambda record: record["level"] == "warning")
        assert warning["problem"].endswith("did you mean DESK_RPC_WORKERS?")


def test_requests_that_are_under_way_are_answered_when_serve_stops(serve):
    connection = http.client.HTTPConnection(*serve.http, timeout=60)
    connection.request("GET", "/livez")
    assert connection.getresponse().read()
    serve.process.send_signal(signal.SIGTERM)
    serve.wait_for(lambda record: record["event"] == "stopping")
    assert serve.wait() == 0
    with pytest.raises(ConnectionError):
        http.client.HTTPConnection(*serve.http, timeout=60).request("GET", "/livez")

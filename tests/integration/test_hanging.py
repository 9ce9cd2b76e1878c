"""A process that hangs: health and status tell, and the supervisor starts it again."""

import os
import signal
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from desk.v1.status_pb2 import GetStatusRequest
from desk.v1.status_pb2_grpc import StatusServiceStub
from tests.support.commands import invoke
from tests.support.processes import RunningDesk, start
from tests.support.waiting import eventually

pytestmark = pytest.mark.tools  # each takes many seconds

TIMEOUT = 9
"""DESK_HANG_TIMEOUT of a supervisor that is to start a process again."""


PATIENT = {"DESK_HANG_TIMEOUT": "600"}
"""So that a process which is stopped stays as it is."""


def pids(desk: RunningDesk, name: str) -> list[int]:
    started = [each for each in desk.records if each["event"] == "process_started"]
    return [each["pid"] for each in started if each["name"] == name]


def is_serving(target: str) -> bool:
    with grpc.insecure_channel(target) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        try:
            status = check(health_pb2.HealthCheckRequest(), timeout=5).status
        except grpc.RpcError:
            return False
    return bool(status == health_pb2.HealthCheckResponse.SERVING)


def silent_processes(target: str) -> list[str]:
    with grpc.insecure_channel(target) as channel:
        return list(StatusServiceStub(channel).GetStatus(GetStatusRequest()).silent_processes)


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        ("follower", "1"),
        ("rpc-1", "1"),
        ("rpc-2", "2"),
    ],
)
def test_health_tells_of_a_process_that_hangs_until_it_goes_on(
    tmp_path: Path, name: str, workers: str
) -> None:
    with start("serve", data_dir=tmp_path / "data", DESK_RPC_WORKERS=workers, **PATIENT) as desk:
        target = desk.target
        eventually(lambda: invoke("health", "service", target).returncode == 0)
        (pid,) = pids(desk, name)
        os.kill(pid, signal.SIGSTOP)
        # Of two workers, the one that hangs may be asked first, and the other not know it yet.
        eventually(lambda: not any(is_serving(target) for _ in range(4)))
        eventually(lambda: invoke("health", "service", target).returncode == 1)
        if name == "follower":
            silence = "no sign of life from follower"
            eventually(lambda: silent_processes(target) == [name])
            eventually(lambda: silence in invoke("status", target=target).stderr)
        os.kill(pid, signal.SIGCONT)
        eventually(lambda: all(is_serving(target) for _ in range(3)))
        eventually(lambda: invoke("health", "service", target).returncode == 0)
        assert pids(desk, name) == [pid]
        assert desk.terminate() == 0


@pytest.mark.parametrize("name", ["follower", "rpc-1"])
def test_a_process_of_the_service_that_hangs_is_started_again(tmp_path: Path, name: str) -> None:
    with start("serve", data_dir=tmp_path / "data", DESK_HANG_TIMEOUT=str(TIMEOUT)) as desk:
        desk.ready()
        before = pids(desk, name)
        os.kill(before[-1], signal.SIGSTOP)
        eventually(lambda: len(pids(desk, name)) > len(before))
        eventually(lambda: all(is_serving(desk.target) for _ in range(3)))
        eventually(lambda: invoke("health", "service", desk.target).returncode == 0)
        assert desk.terminate() == 0


def test_a_gateway_that_hangs_does_not_concern_the_service(tmp_path: Path) -> None:
    with start("serve", data_dir=tmp_path / "data", **PATIENT) as desk:
        desk.ready()
        (pid,) = pids(desk, "gateway")
        os.kill(pid, signal.SIGSTOP)
        desk.wait_for(
            lambda record: record["event"] == "silent_processes" and "gateway" in record["names"]
        )
        eventually(lambda: invoke("health", "service", desk.target).returncode == 0)
        gateway = "http://{}:{}/readyz".format(*desk.http)
        assert invoke("health", "gateway", gateway, "--timeout", "0.5").returncode == 1
        assert pids(desk, "gateway") == [pid]
        os.kill(pid, signal.SIGCONT)
        assert desk.terminate() == 0


def test_a_gateway_that_hangs_is_started_again(tmp_path: Path) -> None:
    with start("serve", data_dir=tmp_path / "data", DESK_HANG_TIMEOUT=str(TIMEOUT)) as desk:
        desk.ready()
        before = pids(desk, "gateway")
        os.kill(before[-1], signal.SIGSTOP)
        eventually(lambda: len(pids(desk, "gateway")) > len(before))
        gateway = "http://{}:{}/readyz".format(*desk.http)
        eventually(lambda: invoke("health", "gateway", gateway).returncode == 0)
        assert desk.terminate() == 0


def test_health_tells_of_a_follower_that_hangs_at_its_start(tmp_path: Path) -> None:
    with start("serve", data_dir=tmp_path / "data") as desk:
        desk.ready()
        assert desk.terminate() == 0
    with start("service", data_dir=tmp_path / "data", **PATIENT) as desk:  # its view is complete
        desk.wait_for(lambda record: record.get("name") == "follower")
        os.kill(pids(desk, "follower")[0], signal.SIGSTOP)
        port = desk.wait_for(lambda record: record["event"] == "rpc_serving")["port"]
        eventually(lambda: not is_serving(f"127.0.0.1:{port}"))
        os.kill(pids(desk, "follower")[0], signal.SIGCONT)
        eventually(lambda: is_serving(f"127.0.0.1:{port}"))
        assert desk.terminate() == 0

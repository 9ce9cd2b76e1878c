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

pytestmark = pytest.mark.tools  # each takes a quarter of a minute

WITHIN = 10.0
"""Seconds after which health must tell."""

TIMEOUT = 16
"""DESK_HANG_TIMEOUT: later than that."""


def pids(desk: RunningDesk, name: str) -> list[int]:
    started = [each for each in desk.records if each["event"] == "process_started"]
    return [each["pid"] for each in started if each["name"] == name]


def is_serving(target: str) -> bool:
    with grpc.insecure_channel(target) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        try:
            status = check(health_pb2.HealthCheckRequest(), timeout=2).status
        except grpc.RpcError:
            return False
    return bool(status == health_pb2.HealthCheckResponse.SERVING)


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        ("follower", "1"),
        ("rpc-1", "1"),
        ("rpc-2", "2"),
    ],
)
def test_health_tells_of_a_process_that_hangs_and_it_is_started_again(
    tmp_path: Path, name: str, workers: str
) -> None:
    with start(
        "serve",
        data_dir=tmp_path / "data",
        DESK_RPC_WORKERS=workers,
        DESK_HANG_TIMEOUT=str(TIMEOUT),
    ) as desk:
        target = desk.target
        assert invoke("health", "service", target).returncode == 0
        (pid,) = pids(desk, name)
        os.kill(pid, signal.SIGSTOP)
        # Of two workers, the one that hangs may be asked first, and the other not know it yet.
        eventually(lambda: not any(is_serving(target) for _ in range(4)), within=WITHIN)
        eventually(lambda: invoke("health", "service", target).returncode == 1, within=WITHIN)
        if name == "follower":
            with grpc.insecure_channel(target) as channel:
                status = StatusServiceStub(channel).GetStatus(GetStatusRequest())
            assert status.silent_processes == [name]
            assert "no sign of life from follower" in invoke("status", target=target).stderr
        eventually(lambda: len(pids(desk, name)) == 2, within=2.0 * TIMEOUT)
        eventually(lambda: all(is_serving(target) for _ in range(3)), within=30)
        eventually(lambda: invoke("health", "service", target).returncode == 0)
        assert desk.terminate() == 0


def test_a_gateway_that_hangs_is_started_again_and_does_not_concern_the_service(
    tmp_path: Path,
) -> None:
    with start("serve", data_dir=tmp_path / "data", DESK_HANG_TIMEOUT="9") as desk:
        desk.ready()
        (pid,) = pids(desk, "gateway")
        os.kill(pid, signal.SIGSTOP)
        desk.wait_for(
            lambda record: record["event"] == "silent_processes" and "gateway" in record["names"]
        )
        assert invoke("health", "service", desk.target).returncode == 0
        gateway = "http://{}:{}/readyz".format(*desk.http)
        assert invoke("health", "gateway", gateway, "--timeout", "0.5").returncode == 1
        eventually(lambda: invoke("health", "gateway", gateway).returncode == 0, within=40)
        assert desk.terminate() == 0


def test_health_tells_of_a_follower_that_hangs_at_its_start(tmp_path: Path) -> None:
    with start("serve", data_dir=tmp_path / "data") as desk:
        desk.ready()
        assert desk.terminate() == 0
    with start("service", data_dir=tmp_path / "data") as desk:  # with a view that is complete
        desk.wait_for(lambda record: record.get("name") == "follower")
        os.kill(pids(desk, "follower")[0], signal.SIGSTOP)
        port = desk.wait_for(lambda record: record["event"] == "rpc_serving")["port"]
        eventually(lambda: not is_serving(f"127.0.0.1:{port}"), within=2 * WITHIN)
        os.kill(pids(desk, "follower")[0], signal.SIGCONT)
        eventually(lambda: is_serving(f"127.0.0.1:{port}"), within=30)
        assert desk.terminate() == 0

"""The health check without gRPC: it agrees with gRPC, and nothing that answers can mislead it."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from command.address import Address
from command.cli.health_call import is_serving
from tests.support.processes import environment

Status = health_pb2.HealthCheckResponse


@pytest.fixture
def servicer() -> health.HealthServicer:
    return health.HealthServicer()


@pytest.fixture
def target(servicer: health.HealthServicer) -> Iterator[Address]:
    """A server with grpc's own health service."""
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Address("127.0.0.1", port)
    server.stop(0).wait()


@pytest.mark.parametrize("status", [Status.SERVING, Status.NOT_SERVING, Status.UNKNOWN])
def test_the_status_is_that_of_grpc(
    servicer: health.HealthServicer, target: Address, status: int
) -> None:
    servicer.set("", status)
    assert is_serving(target, 60) == (status == Status.SERVING)


def test_a_method_that_is_not_there_has_no_status() -> None:
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with pytest.raises(OSError, match="no status"):
        is_serving(Address("127.0.0.1", port), 60)
    server.stop(0).wait()


def answering(answer: Callable[[socket.socket], None]) -> Address:
    """A server that does something with its first connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            answer(connection)

    threading.Thread(target=serve, daemon=True).start()
    return Address(*listener.getsockname()[:2])


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff" * 100_000,
        bytes.fromhex("000004 03 00 00000001 00000001"),  # RST_STREAM
        bytes.fromhex("000000 00 01 00000001"),  # DATA, empty, the last one
    ],
)
def test_what_is_no_status_is_an_error(answer: bytes) -> None:
    with pytest.raises(OSError, match=r"no status|reset|timed out"):
        is_serving(answering(lambda connection: connection.sendall(answer)), 2)


def test_a_server_that_says_nothing_or_never_stops_is_given_up_in_time() -> None:
    closed = threading.Event()

    def drip(connection: socket.socket) -> None:
        while not closed.wait(0.05):
            connection.sendall(bytes.fromhex("000000 04 01 00000000"))  # SETTINGS, acknowledged

    for answer in (lambda _: closed.wait(), drip):
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            is_serving(answering(answer), 0.5)
        assert time.monotonic() - began < 20
    closed.set()


def test_the_probe_does_not_load_grpc(servicer: health.HealthServicer, target: Address) -> None:
    servicer.set("", Status.SERVING)
    script = f"""
import sys
from command.cli import main
try:
    main(["health", "service", "{target}"])
except SystemExit as end:
    assert end.code in (0, None), end.code
assert "grpc" not in sys.modules, "grpc"
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment({}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

"""`desk serve` whose output goes into full pipes that nobody reads."""

import http.client
import json
import os
import signal
import subprocess
import sys

import pytest

from tests.support.loopback import reserved_port
from tests.support.processes import (
    DEADLINE,
    SDK_APP_ID,
    descendants,
    environment,
    is_running,
    wait_until,
)

BEGIN = json.dumps({"SessionId": "a", "Event": "SessionBegin", "EventTime": 1_725_540_020_000})


@pytest.fixture
def full_pipe():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"." * 512)
    except BlockingIOError:
        os.set_blocking(writer, True)
    yield writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def port():
    with reserved_port() as reserved:
        yield reserved


def status(port, method, target, body=None):
    """The HTTP status; 0 while nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request(method, target, body)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


@pytest.mark.tools
def test_callbacks_are_acknowledged_and_sigterm_stops_the_gateway(tmp_path, full_pipe, port):
    settings = {
        "DESK_DATA_DIR": str(tmp_path / "data"),
        "DESK_HTTP_LISTEN": f"127.0.0.1:{port}",
        "DESK_GRPC_LISTEN": "127.0.0.1:0",
        "DESK_SDK_APP_IDS": str(SDK_APP_ID),
        "DESK_LOG_LEVEL": "debug",
    }
    serve = subprocess.Popen(
        [sys.executable, "-m", "command", "serve"],
        env=environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=full_pipe,
        stderr=full_pipe,
        start_new_session=True,
        cwd=tmp_path,
    )
    try:
        wait_until(lambda: status(port, "GET", "/readyz") == 200)
        target = f"/?SdkAppid={SDK_APP_ID}&CallbackCommand=Desk.SessionEventNotify"
        wait_until(lambda: status(port, "POST", target, BEGIN) == 200)
        children = descendants(serve.pid)
        assert len(children) >= 3
        serve.send_signal(signal.SIGTERM)
        assert serve.wait(DEADLINE) == 0  # it is 1 if anything had to be killed after 9 s
        wait_until(lambda: not any(map(is_running, children)))
    finally:
        serve.kill()
        serve.wait()

"""Real `desk` processes for tests: serve, gateway, service, and the client commands.

    with start("serve", data_dir=tmp_path) as desk:
        desk.ready()                        # waits until it is ready, with a deadline
        desk.http                           # ("127.0.0.1", 41237)
        desk.target                         # "127.0.0.1:41239", for a gRPC channel
        desk.post(begin_callback)           # a dict or bytes; returns (status, answer)
        run("sessions", "get", session_id, target=desk.target)
        desk.terminate()                    # SIGTERM; returns the exit code

Everything listens on ephemeral loopback ports. What still runs when the block is left is killed,
children included. `desk.records` are the log records so far (JSON, parsed);
`desk.wait_for(predicate)` waits for one.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.support.waiting import PATIENCE as DEADLINE

SDK_APP_ID = 1600012345
"""The app that is configured unless a test says otherwise."""

ROOT = Path(__file__).parents[2]


INHERIT = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Passes a socket on as sd_listen_fds(3) expects it."""


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `settings`, without its own and its terminal's size."""
    ours = ("DESK_", "OTEL_", "COLUMNS", "LINES", "TZ")  # pytest-xdist sets COLUMNS and LINES
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**inherited, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **settings}


def run(
    *arguments: str,
    target: str | None = None,
    timeout: float = DEADLINE,
    stdin: str | None = None,
    cwd: Path | None = None,
    **settings: str,
) -> subprocess.CompletedProcess[str]:
    """Run one `desk` command to its end and return exit code and output."""
    if target is not None:
        settings["DESK_TARGET"] = target
    return subprocess.run(
        [sys.executable, "-m", "command", *arguments],
        env=environment(settings),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        check=False,
    )


@contextmanager
def start(
    *arguments: str,
    data_dir: Path,
    module: str = "command",
    python: str | Path = sys.executable,
    prepare: Callable[[], None] | None = None,
    listener: socket.socket | None = None,
    **settings: str,
) -> "Iterator[RunningDesk]":
    """Start a command on `data_dir`; `settings` are `DESK_…` variables. Kills what is left.

    `prepare` runs in the child before the command does. `listener` is passed on as systemd does.
    """
    command = (str(python), "-m", module, *arguments)
    running = RunningDesk(command, data_dir, settings, prepare, listener)
    try:
        yield running
    finally:
        running.kill()


class RunningDesk:
    """A `desk` command that runs as a child process, in a process group of its own."""

    def __init__(
        self,
        arguments: tuple[str, ...],
        data_dir: Path,
        settings: Mapping[str, str],
        prepare: Callable[[], None] | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        passed = [listener.fileno()] if listener else []
        if listener:
            arguments = (sys.executable, "-c", INHERIT, str(passed[0]), *arguments)
        ours = {
            "DESK_DATA_DIR": str(data_dir),
            "DESK_HTTP_LISTEN": "127.0.0.1:0",
            "DESK_GRPC_LISTEN": "127.0.0.1:0",
            "DESK_METRICS_LISTEN": "",
            "DESK_CONSOLE_LISTEN": "",
            "DESK_LOG_FORMAT": "json",
            "DESK_SDK_APP_IDS": str(SDK_APP_ID),
            "DESK_ALLOW_UNSIGNED": "true",
        }
        self.process = subprocess.Popen(
            arguments,
            env=environment({**ours, **settings}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=prepare,
            pass_fds=passed,
            cwd=data_dir.parent,  # where no `.env` is
        )
        self.pid = self.process.pid
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._news = threading.Condition()
        self._readers = [
            threading.Thread(target=self._collect, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.stdout), (self.process.stderr, self.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def _collect(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            with self._news:
                lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The log records so far; lines of stderr that are no JSON are left out."""
        with self._news:
            lines = list(self.stderr)
        return [json.loads(line) for line in lines if line.startswith("{")]

    @property
    def output(self) -> str:
        """Everything written so far, for the message of a failed assertion."""
        with self._news:
            return "\n".join([*self.stdout, *self.stderr])

    def wait_for(
        self, wanted: Callable[[dict[str, Any]], bool], *, timeout: float = DEADLINE
    ) -> dict[str, Any]:
        """Return the first log record that `wanted` accepts; fail when it does not come."""
        deadline = time.monotonic() + timeout
        while True:
            for record in self.records:
                if wanted(record):
                    return record
            left = deadline - time.monotonic()
            if left <= 0 or not any(reader.is_alive() for reader in self._readers):
                raise AssertionError(f"the log record did not come; the output was:\n{self.output}")
            with self._news:
                self._news.wait(min(left, 0.2))

    def ready(self) -> dict[str, Any]:
        """Wait until the command says that it is ready; return that record."""
        return self.wait_for(lambda record: record["event"] == "ready")

    @property
    def http(self) -> tuple[str, int]:
        """Host and port of the gateway."""
        host, _, port = self.ready()["http"].rpartition(":")
        return host, int(port)

    @property
    def url(self) -> str:
        """The gateway's callback URL."""
        host, port = self.http
        return f"http://{host}:{port}/"

    @property
    def target(self) -> str:
        """`host:port` of the gRPC API."""
        return str(self.ready()["grpc"])

    def post(
        self, body: Mapping[str, Any] | bytes, *, sdk_app_id: int = SDK_APP_ID, **query: str
    ) -> tuple[int, dict[str, Any]]:
        """Send one callback as Desk does; return the HTTP status and the answer.

        What is refused for the moment is sent three times: a busy machine may take too long once.
        """
        for _ in range(2):
            status, answer = self._post(body, sdk_app_id, query)
            if status != 503:
                return status, answer
        return self._post(body, sdk_app_id, query)

    def _post(
        self, body: Mapping[str, Any] | bytes, sdk_app_id: int, query: Mapping[str, str]
    ) -> tuple[int, dict[str, Any]]:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        parameters = {
            "SdkAppid": str(sdk_app_id),
            "CallbackCommand": "Desk.SessionEventNotify",
            "contenttype": "json",
            "ClientIP": "127.0.0.1",
            "OptPlatform": "RESTAPI",
            **query,
        }
        connection = http.client.HTTPConnection(*self.http, timeout=DEADLINE)
        try:
            connection.request("POST", "/?" + urlencode(parameters), payload)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def terminate(self, signum: int = signal.SIGTERM, *, timeout: float = DEADLINE) -> int:
        """Send the signal, wait for the end, return the exit code."""
        self.process.send_signal(signum)
        return self.wait(timeout=timeout)

    def interrupt_group(self) -> None:
        """Send SIGINT to the whole process group, as a terminal does on Ctrl-C."""
        os.killpg(self.pid, signal.SIGINT)

    def wait(self, *, timeout: float = DEADLINE) -> int:
        """Wait for the end; return the exit code once all output has been read."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end; the output was:\n{self.output}") from None
        for reader in self._readers:
            reader.join(timeout=DEADLINE)
        return code

    def children(self) -> list[int]:
        """Ids of all living descendants."""
        return descendants(self.pid)

    def kill(self) -> None:
        """SIGKILL to the whole process group: also to children whose parent is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()


@contextmanager
def simulating(gateway: RunningDesk, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `desk simulate` beside the test, which reads its output."""
    app = ("--app", str(SDK_APP_ID), "--json")
    process = subprocess.Popen(
        (sys.executable, "-m", "command", "simulate", gateway.url, *app, *arguments),
        env=environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def descendants(pid: int) -> list[int]:
    """Ids of the living descendants of `pid`, nearest first. Linux only, as everything here."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for ancestor in found:
        found += [child for child, parent in parents.items() if parent == ancestor]
    return found[1:]


def is_running(pid: int) -> bool:
    """Return True if the process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_until(condition: Callable[[], bool], *, timeout: float = DEADLINE) -> None:
    """Wait until `condition` holds; fail when it does not."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the condition did not come true in time")
        time.sleep(0.02)

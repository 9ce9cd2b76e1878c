"""Starts on a disk that is full, and as another user than the one that owns the files."""

import http.client
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from journal.sqlite import SqliteWriter
from tests.support.commands import invoke
from tests.support.loopback import reserved_port
from tests.support.processes import (
    DEADLINE,
    SDK_APP_ID,
    RunningDesk,
    environment,
    run,
    start,
    wait_until,
)

BEGIN = json.dumps({"SessionId": "s", "Event": "SessionBegin", "EventTime": 1_725_540_020_000})
URL = f"/?SdkAppid={SDK_APP_ID}&CallbackCommand=Desk.SessionEventNotify"


def limit_files_to(size: int) -> None:
    """Let no file grow beyond a size, as a full disk does; children inherit it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def ask(port: int, method: str, url: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    with closing(connection):
        connection.request(method, url, BEGIN if method == "POST" else None)
        response = connection.getresponse()
        response.read()
        return response


def wait_until_it_listens(desk: RunningDesk, port: int) -> None:
    def answers() -> bool:
        try:
            return ask(port, "GET", "/livez").status == 200
        except OSError:
            return False

    wait_until(answers)


@pytest.mark.tools
@pytest.mark.parametrize("there", ["nothing", "journal and view", "what a crash left"])
def test_serve_on_a_full_disk_answers_503_and_begins_when_there_is_room(
    there: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    if there != "nothing":
        with start("serve", data_dir=data) as desk:
            assert desk.post(BEGIN.encode())[0] == 200
            assert invoke("sessions", "list", "--min-revision", "1", target=desk.target)[0] == 0
            if there == "journal and view":
                assert desk.terminate() == 0
    with (
        reserved_port() as port,
        start(
            "serve",
            data_dir=data,
            prepare=lambda: limit_files_to(1),
            DESK_HTTP_LISTEN=f"127.0.0.1:{port}",
        ) as desk,
    ):
        desk.wait_for(lambda record: record["event"] == "waiting_for_journal")
        wait_until_it_listens(desk, port)
        refused = ask(port, "POST", URL)
        assert (refused.status, refused.headers["Retry-After"]) == (503, "2")
        assert ask(port, "GET", "/readyz").status == 503
        assert not [r for r in desk.records if r["event"] == "process_died"]
        for pid in [desk.pid, *desk.children()]:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        wait_until(lambda: ask(port, "POST", URL).status == 200)
        desk.ready()
        wait_until(lambda: ask(port, "GET", "/readyz").status == 200)
        assert desk.terminate(signal.SIGTERM) == 0


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")


@root_only
@pytest.mark.parametrize("command", ["serve", "gateway", "service"])
def test_a_start_as_another_user_than_the_owner_is_one_line_and_exit_code_1(
    command: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    SqliteWriter(data / "journal.db").close()
    for file in data.iterdir():
        os.chown(file, 12345, 12345)
    with start(command, data_dir=data) as running:
        assert running.wait() == 1
        (line,) = running.stderr
        assert line == (
            f"desk: {data}/journal.db belongs to uid 12345, and this is root (uid 0): "
            "start it as its owner"
        )


AS_ANOTHER = """
import os, command.cli, command.cli.backup
os.setuid(12345)
command.cli.main()
"""
"""Becomes another user after the import: that user may not be allowed to read the program."""


@root_only
def test_a_restore_as_another_user_is_one_line_and_exit_code_1() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        data, backup = Path(folder, "data"), Path(folder, "b.db")
        SqliteWriter(data / "journal.db").close()
        assert run("backup", str(backup), DESK_DATA_DIR=str(data)).returncode == 0
        backup.chmod(0o644)
        answer = subprocess.run(
            [sys.executable, "-c", AS_ANOTHER, "restore", str(backup)],
            env=environment({"DESK_DATA_DIR": str(data)}),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        assert answer.returncode == 1
        assert answer.stderr == f"desk: {data} belongs to root (uid 0): do this as that user\n"

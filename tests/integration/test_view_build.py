"""`desk view`: the view of a version is built before that version serves."""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from callback.decoder import identify
from journal.sqlite import SqliteWriter
from service.view.locks import building
from service.view.store import locate
from service.view.writer import ViewWriter
from tests.support.callbacks import APP, NOON, body
from tests.support.journals import append
from tests.support.processes import DEADLINE, RunningDesk, environment, run, start, wait_until
from tests.support.views import read


def begin(session_id: str) -> dict[str, object]:
    return {"SessionId": session_id, "Event": "SessionBegin", "EventTime": 1_725_540_020_000}


def post_many(running: RunningDesk, first: int, last: int) -> None:
    for number in range(first, last + 1):
        assert running.post(begin(f"session-{number:05d}"))[0] == 200


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with a journal of a hundred callbacks, and no view."""
    data = tmp_path / "data"
    data.mkdir()
    with closing(SqliteWriter(data / "journal.db")) as journal:
        for number in range(1, 101):
            content = body("SessionBegin", NOON, session_id=f"session-{number:05d}")
            marks = {"id": identify(APP, content), "sdk_app_id": APP, "received_at": NOON}
            append(journal, number, body=content, **marks)
    return data


def view(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    return run("view", *arguments, DESK_DATA_DIR=str(data))


def test_a_view_that_was_built_before_the_start_is_the_one_that_is_served(data: Path) -> None:
    with start("gateway", data_dir=data) as gateway:
        post_many(gateway, 101, 110)
        built = view("build", data=data)
        assert built.returncode == 0, built.stderr
        assert built.stdout.startswith(f"built {locate(data).name} up to revision 110 in ")
        assert built.stderr == ""
        post_many(gateway, 111, 111)
        inode = locate(data).stat().st_ino
        with start("service", data_dir=data) as service:
            service.ready()
            started = service.wait_for(lambda record: record["event"] == "follower_started")
            assert started["revision"] == 110
            wait_until(lambda: read(data, "SELECT count(*) FROM sessions") == [(111,)])
        assert locate(data).stat().st_ino == inode


def test_a_build_that_was_interrupted_goes_on_where_it_was(data: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "command", "view", "build"],
        env=environment({"DESK_DATA_DIR": str(data)}),
    ) as process:
        wait_until(locate(data).exists)
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE)
    assert view("build", data=data).returncode == 0
    assert read(data, "SELECT count(*) FROM sessions") == [(100,)]


def test_a_view_that_is_served_needs_no_build(data: Path) -> None:
    with start("service", data_dir=data) as service:
        service.ready()
        built = view("build", data=data)
        assert (built.returncode, built.stderr) == (0, "")
        assert built.stdout == f"{locate(data).name} is being served: there is nothing to build\n"


def test_a_view_is_not_built_twice_at_once(data: Path) -> None:
    with building(data):
        built = view("build", data=data)
    assert built.returncode == 1
    assert built.stderr == f"desk: {locate(data)} is being built by another process\n"


def test_a_service_that_starts_during_a_build_waits_for_its_end(data: Path) -> None:
    with start("service", data_dir=data) as service:
        with building(data), closing(ViewWriter(data)):
            waiting = service.wait_for(lambda record: record["event"] == "waiting_for_journal")
            assert waiting["reason"] == "desk view build is making the view"
        service.ready()
        wait_until(lambda: read(data, "SELECT count(*) FROM sessions") == [(100,)])


def test_without_a_journal_there_is_nothing_to_build(tmp_path: Path) -> None:
    built = view("build", data=tmp_path / "nowhere")
    assert built.returncode == 1
    assert built.stderr == f"desk: {tmp_path}/nowhere/journal.db: No such file or directory\n"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as another user")
def test_what_root_deletes_leaves_nothing_of_roots_behind() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (data := Path(folder, "data")).mkdir()
        for path in (data / "journal.db", data / "view-0123456789ab.db", data):
            path.touch()
            os.chown(path, 12345, 12345)
        dropped = view("drop", data=data)
        assert (dropped.returncode, dropped.stderr) == (0, "")
        assert {(path.name, path.stat().st_uid) for path in data.iterdir()} == {
            ("journal.db", 12345),
            ("view-0123456789ab.db.lock", 12345),
        }


def test_a_build_that_would_fill_the_disk_is_refused(data: Path) -> None:
    with (data / "view-0123456789ab.db").open("wb") as other:
        os.truncate(other.fileno(), 2**43)  # takes no room
    built = view("build", data=data)
    assert built.returncode == 1
    assert "bytes free, and 8,796,093,022,208 are needed" in built.stderr
    assert not locate(data).exists()


def test_views_of_other_versions_are_deleted_when_it_is_told(data: Path) -> None:
    assert view("build", data=data).returncode == 0
    (data / "view-0123456789ab.db").touch()
    dropped = view("drop", data=data)
    assert (dropped.returncode, dropped.stdout) == (0, "view-0123456789ab.db: deleted\n")
    assert [path.name for path in data.glob("view-*.db")] == [locate(data).name]

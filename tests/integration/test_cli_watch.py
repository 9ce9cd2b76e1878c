"""`desk watch` against a real `desk serve`: live, resumed, interrupted."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import grpc
import pytest

from tests.support.commands import catch_up, invoke
from tests.support.feed_server import FeedServer, fail, records, serving
from tests.support.loopback import reserved_port
from tests.support.processes import DEADLINE, environment, run, start

BEGIN_AT = 1_725_540_020_000


def callback(session_id, event="SessionBegin", seconds=0):
    return {"SessionId": session_id, "Event": event, "EventTime": BEGIN_AT + 1000 * seconds}


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    with start("serve", data_dir=tmp_path_factory.mktemp("watch") / "data") as running:
        running.ready()
        yield running


@pytest.fixture
def head(desk):
    """The revision at which the journal stands before the test."""
    answer = invoke("status", "--json", target=desk.target)
    return json.loads(answer.stdout)["head_revision"]


@pytest.fixture
def since(head):
    """Options of a watch that shows nothing of the tests before."""
    return ("--after", str(head), "--json")


class Watch:
    """A running `desk watch`."""

    def __init__(self, process):
        self.process = process
        self.lines = []
        self.errors = []
        self._news = threading.Condition()
        for stream, lines in ((process.stdout, self.lines), (process.stderr, self.errors)):
            threading.Thread(target=self._collect, args=(stream, lines), daemon=True).start()

    def _collect(self, stream, lines):
        for line in stream:
            with self._news:
                lines.append(line.rstrip("\n"))
                self._news.notify_all()

    def wait_for(self, condition, what):
        with self._news:
            if not self._news.wait_for(lambda: condition(self), DEADLINE):
                raise AssertionError(f"{what} did not come: {self.lines} {self.errors}")

    def records(self, count):
        self.wait_for(lambda watch: len(watch.lines) >= count, f"record {count}")
        return [json.loads(line) for line in self.lines]

    def stop(self, signum=signal.SIGINT):
        self.process.send_signal(signum)
        return self.process.wait(DEADLINE)


@contextmanager
def watching(target, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "command", "watch", *arguments],
        env=environment({"DESK_TARGET": target}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Watch(process)
    finally:
        process.kill()
        process.wait()


def revisions(records):
    return [record["revision"] for record in records]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_watch_shows_what_was_and_what_comes_and_ends_with_0(desk, head, signum):
    names = (f"before-{signum}", f"after-{signum}")
    only = [f"--session={name}" for name in names]
    desk.post(callback(names[0]))
    with watching(desk.target, "--from-start", "--json", *only) as watch:
        assert revisions(watch.records(1)) == [head + 1]
        desk.post(callback(names[1]))
        assert revisions(watch.records(2)) == [head + 1, head + 2]
        assert watch.stop(signum) == 0
        assert watch.errors == []


def test_watch_goes_on_after_a_revision(desk, head):
    for name in "abc":
        desk.post(callback(f"resume-{name}"))
    with watching(desk.target, "--after", str(head + 2), "--json") as watch:
        assert revisions(watch.records(1)) == [head + 3]


def test_watch_marks_what_is_late_or_revised_and_shows_the_state_at_present(desk):
    desk.post(callback("revised"))
    desk.post(callback("revised", "Human.UserSendMsg", 20))
    desk.post(callback("revised", "SessionUserEnd", 30))
    desk.post(callback("revised", "SessionEnd", 31))
    desk.post(callback("revised", "TransferringToHuman", 10))
    both = ("--verdict", "accepted", "--verdict", "rejected", "--time-zone", "Asia/Shanghai")
    with watching(desk.target, "--from-start", "--session", "revised", *both) as watch:
        watch.wait_for(lambda watch: len(watch.lines) >= 8, "line 8")
        title, _, begin, impossible, closing, ended, late, revised = map(cells, watch.lines)
        assert title[:6] == ["REV", "TIME", "SESSION", "EVENT", "STATE", "NOTE"]
        assert begin[1:7] == [
            "2024-09-05 20:40:20.000+08:00",
            "revised",
            "SessionBegin",
            "CHATBOT",
            "-",
            "- → CHATBOT",
        ]
        assert impossible[4:7] == ["CHATBOT", "rejected", "IMPOSSIBLE_IN_STATE"]
        assert closing[4:7] == ["CLOSING", "-", "CHATBOT → CLOSING"]
        assert ended[4:7] == ["ENDED", "-", "CLOSING → ENDED"]
        assert late[4:7] == ["ENDED", "late 21s", "CHATBOT → TRANSFERRING"]
        assert revised[4:6] == ["ENDED", "revised"]
        assert "\x1b" not in "".join(watch.lines)


def cells(line):
    return re.split(" {2,}", line.strip())


def test_watch_ends_when_it_has_caught_up(desk, head):
    desk.post(callback("caught-up"))
    catch_up(desk.target)
    options = ("--from-start", "--until-caught-up")
    answer = invoke("watch", *options, "--json", target=desk.target)
    assert answer.returncode == 0
    assert [json.loads(line)["revision"] for line in answer.stdout.splitlines()][-1] > head
    table = invoke("watch", *options, "--csv", "--columns", "session_id,note", target=desk.target)
    assert table.stdout.splitlines()[0] == "session_id,note"


def test_watch_selects_and_shows_the_session_after_each_record(desk):
    desk.post(callback("left-out"))
    desk.post(callback("selected"))
    with watching(
        desk.target, "--from-start", "--session", "selected", "--include-session", "--json"
    ) as watch:
        (record,) = watch.records(1)
        assert record["session"]["session_id"] == "selected"
        assert record["session"]["state"] == "SESSION_STATE_CHATBOT"


class FeedOnly(FeedServer):
    """A service that lets its client read the feed, and nothing else."""

    async def GetStatus(self, request, context):  # noqa: N802
        await fail(context, grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")


async def test_watch_needs_no_more_than_the_feed():
    async with serving(FeedOnly(records(1, 1))) as port:
        watch = ("watch", "--from-start", "--until-caught-up", "--json")
        answer = await asyncio.to_thread(run, *watch, target=f"127.0.0.1:{port}")
    assert answer.returncode == 0
    assert revisions(map(json.loads, answer.stdout.splitlines())) == [1, 2]


def test_watch_goes_on_from_its_checkpoint_file(desk, head, since, tmp_path):
    file = tmp_path / "checkpoint"
    options = (*since, "--checkpoint-file", str(file))
    desk.post(callback("checkpoint-a"))
    with watching(desk.target, *options) as watch:
        assert revisions(watch.records(1)) == [head + 1]
        assert watch.stop() == 0
    assert json.loads(file.read_text())["revision"] == head + 1
    desk.post(callback("checkpoint-b"))
    with watching(desk.target, *options) as watch:
        assert revisions(watch.records(1)) == [head + 2]
        assert watch.stop() == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("check")] == [
        "checkpoint"
    ]


def test_watch_connects_again_and_misses_nothing(desk, head, since):
    desk.post(callback("lost-a"))
    with watching(desk.target, *since) as watch:
        watch.records(1)
        worker = next(r["pid"] for r in desk.records if r.get("name") == "rpc-1")
        os.kill(worker, signal.SIGKILL)
        watch.wait_for(lambda watch: watch.errors, "a word about the lost connection")
        assert watch.errors[0].startswith("desk: connection lost")
        desk.post(callback("lost-b"))
        assert revisions(watch.records(2)) == [head + 1, head + 2]


@pytest.mark.tools
def test_watch_goes_on_when_the_whole_service_is_restarted(tmp_path):
    data_dir = tmp_path / "data"
    with (
        reserved_port() as port,
        start("serve", data_dir=data_dir, DESK_GRPC_LISTEN=f"127.0.0.1:{port}") as first,
    ):
        first.post(callback("a"))
        target = first.target
        with watching(target, "--from-start", "--json") as watch:
            watch.records(1)
            assert first.terminate() == 0
            with start("serve", data_dir=data_dir, DESK_GRPC_LISTEN=target) as second:
                second.post(callback("b"))
                assert revisions(watch.records(2)) == [1, 2]
                assert watch.stop() == 0
                assert second.terminate() == 0


def test_a_checkpoint_of_another_journal_is_refused(desk, tmp_path):
    file = tmp_path / "checkpoint"
    file.write_text(json.dumps({"journal_id": "0" * 32, "revision": 0}))
    answer = invoke("watch", "--checkpoint-file", str(file), target=desk.target)
    assert answer.returncode == 1
    assert answer.stderr == (
        f"desk: {file} counts in another journal: delete it to start over "
        "(FAILED_PRECONDITION, JOURNAL_MISMATCH)\n"
    )


def test_a_file_that_is_no_checkpoint_is_wrong_usage_and_stays(desk, tmp_path):
    file = tmp_path / "checkpoint"
    file.write_text("my diary")
    answer = invoke("watch", "--checkpoint-file", str(file), target=desk.target)
    assert answer.returncode == 2
    assert file.read_text() == "my diary"


def test_a_checkpoint_that_cannot_be_written_is_one_line(desk, tmp_path):
    desk.post(callback("not-written"))
    file = tmp_path / "nowhere" / "checkpoint"
    answer = invoke("watch", "--from-start", "--checkpoint-file", str(file), target=desk.target)
    assert answer.returncode == 1
    assert answer.stderr == f"desk: {file} cannot be written: No such file or directory\n"


def test_watch_ends_quietly_when_its_reader_leaves(desk):
    for name in "abc":
        desk.post(callback(f"leaves-{name}"))
    done = subprocess.Popen(
        ["bash", "-c", f"{sys.executable} -m command watch --from-start --json | head -n 1"],
        env=environment({"DESK_TARGET": desk.target}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + DEADLINE
    try:
        first = done.stdout.readline()
        assert json.loads(first)["revision"] == 1
        while done.poll() is None and time.monotonic() < deadline:
            desk.post(callback(f"more-{time.monotonic_ns()}"))
        assert done.stderr.read() == ""
    finally:
        done.kill()
        done.wait()

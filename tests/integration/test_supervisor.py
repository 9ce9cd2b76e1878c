"""The supervisor with small parts that really are processes."""

import fcntl
import os
import resource
import signal
import termios
import time

import pytest

from command.supervised import MAX_FAILED_STARTS
from command.supervisor import STOP_WITHIN
from tests.support.processes import is_running, start, wait_until

pytestmark = pytest.mark.tools


@pytest.fixture
def supervise(tmp_path):
    def run(*scenario, **options):
        module = "tests.support.parts"
        return start(*scenario, data_dir=tmp_path / "data", module=module, **options)

    return run


def named(event, name):
    return lambda record: record["event"] == event and record.get("name") == name


def pid_of(running, name):
    return running.wait_for(named("process_started", name))["pid"]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGRTMIN + 1])
def test_a_part_that_dies_is_started_again(supervise, signum):
    with supervise("two-stages") as running:
        running.ready()
        os.kill(pid_of(running, "first"), signum)
        died = running.wait_for(named("process_died", "first"))
        assert died["exit_code"] == -signum
        assert died["reason"].startswith(f"killed by signal {signum} ")
        wait_until(lambda: sum(map(named("process_ready", "first"), running.records)) == 2)
        assert running.terminate() == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_parts_are_stopped_stage_by_stage(supervise, signum):
    # Under nohup the tests ignore SIGHUP, and a child would inherit that.
    with supervise("two-stages", prepare=lambda: signal.signal(signum, signal.SIG_DFL)) as running:
        running.ready()
        children = running.children()
        assert running.terminate(signum) == 0
        ended = [record["process"] for record in running.records if record["event"] == "ended"]
        assert ended == ["first", "last"]
        wait_until(lambda: not any(map(is_running, children)))


def test_a_hang_up_is_passed_on_to_every_part_and_stops_none(supervise):
    with supervise("two-stages") as running:
        running.ready()
        for times in (1, 2):
            running.process.send_signal(signal.SIGHUP)
            for name in ("first", "last"):
                wait_until(lambda name=name, times=times: reloads(running, name) == times)
        os.kill(pid_of(running, "first"), signal.SIGKILL)
        running.process.send_signal(signal.SIGHUP)  # while one part starts
        wait_until(lambda: sum(map(named("process_ready", "first"), running.records)) == 2)
        assert running.terminate() == 0
        died = [record for record in running.records if record["event"] == "process_died"]
        assert len(died) == 1


def reloads(running, name):
    found = [r for r in running.records if r["event"] == "reloaded" and r["process"] == name]
    return len(found)


def test_the_end_of_its_terminal_stops_it(supervise):
    master, slave = os.openpty()
    with supervise(
        "two-stages", prepare=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    ) as running:
        os.close(slave)
        running.ready()
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: reloads(running, "last") == 1)
        os.close(master)
        assert running.wait() == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(supervise, signum):
    with supervise("two-stages", prepare=lambda: signal.signal(signum, signal.SIG_IGN)) as running:
        running.ready()
        running.process.send_signal(signum)
        os.kill(pid_of(running, "first"), signal.SIGKILL)  # by the time that it is back …
        wait_until(lambda: sum(map(named("process_ready", "first"), running.records)) == 2)
        assert not any(record["event"] == "stopping" for record in running.records)
        assert running.terminate() == 0


def test_ctrl_c_in_a_terminal_reaches_everybody_and_still_stops_in_order(supervise):
    with supervise("two-stages") as running:
        running.ready()
        running.interrupt_group()
        assert running.wait() == 0
        ended = [record["process"] for record in running.records if record["event"] == "ended"]
        assert ended == ["first", "last"]
        assert "Traceback" not in running.output


def test_ctrl_c_while_parts_are_starting_is_no_traceback(supervise):
    with supervise("two-stages") as running:
        pid_of(running, "last")
        running.interrupt_group()
        assert running.wait() == 0
        assert "Traceback" not in running.output


def test_a_part_that_dies_at_every_start_is_given_up_with_growing_pauses(supervise):
    with supervise("crashing") as running:
        assert running.wait() == 1
        pauses = [r["restart_in_s"] for r in running.records if r["event"] == "process_died"]
        assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6]
        assert running.stdout == [
            "crashing died 5 times while starting: stumbled over its own feet"
        ]


def test_a_part_that_was_once_ready_is_never_given_up_even_if_no_process_can_be_made(supervise):
    with supervise("two-stages") as running:
        running.ready()
        limits = resource.prlimit(running.pid, resource.RLIMIT_NOFILE)
        # poll() refuses to look at more files than the limit: it looks at five. All below are open.
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (6, limits[1]))
        os.kill(pid_of(running, "first"), signal.SIGKILL)
        died = named("process_died", "first")
        wait_until(lambda: sum(map(died, running.records)) > MAX_FAILED_STARTS)
        assert "cannot be started: Too many open files" in running.output
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, limits)
        wait_until(lambda: sum(map(named("process_ready", "first"), running.records)) == 2)
        assert running.terminate() == 0
        assert "Traceback" not in running.output


def test_a_part_that_knows_it_cannot_work_is_not_started_again(supervise):
    with supervise("hopeless") as running:
        assert running.wait() == 1
        assert running.stdout == ["hopeless: the disk is made of cheese"]
        assert sum(map(named("process_started", "hopeless"), running.records)) == 1
        assert not any(r["event"] == "ready" for r in running.records)


def test_a_part_that_does_not_stop_is_killed_in_time(supervise):
    with supervise("stubborn", "1.0") as running:
        running.ready()
        pid = pid_of(running, "stubborn")
        began = time.monotonic()
        assert running.terminate() == 1
        assert time.monotonic() - began < STOP_WITHIN  # the limit without the scenario's 1 s
        assert not is_running(pid)


def test_a_second_ctrl_c_stops_at_once(supervise):
    with supervise("stubborn", "60") as running:
        running.ready()
        pid = pid_of(running, "stubborn")

        def insist():
            running.interrupt_group()
            return running.process.poll() is not None

        wait_until(insist)  # a second one is enough, but must come later than the first
        assert running.wait() == 1
        assert not is_running(pid)


def test_parts_end_when_their_supervisor_is_killed(supervise):
    with supervise("two-stages") as running:
        running.ready()
        children = running.children()
        assert len(children) >= 2
        os.kill(running.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, children)))


def test_a_part_that_hangs_is_named_killed_and_started_again(supervise):
    with supervise("living", DESK_HANG_TIMEOUT="5") as running:
        running.ready()
        pid = pid_of(running, "living")
        os.kill(pid, signal.SIGSTOP)
        running.wait_for(is_told("living"))
        hung = running.wait_for(named("process_hung", "living"))
        assert hung["pid"] == pid
        died = running.wait_for(named("process_died", "living"))
        assert died["reason"] == "gave no sign of life for 5 s"
        wait_until(lambda: sum(map(named("process_ready", "living"), running.records)) == 2)
        wait_until(lambda: is_told()(last_told(running)))
        assert running.terminate() == 0


def test_a_part_that_hangs_at_its_start_is_killed_and_started_again(supervise):
    with supervise("mute", DESK_HANG_TIMEOUT="1") as running:
        died = running.wait_for(named("process_died", "mute"))
        assert died["reason"] == "gave no sign of life for 1 s"
        wait_until(lambda: sum(map(named("process_started", "mute"), running.records)) >= 2)


def test_a_part_that_hangs_is_left_alone_if_that_is_wanted(supervise):
    with supervise("living", DESK_HANG_TIMEOUT="0") as running:
        running.ready()
        os.kill(pid_of(running, "living"), signal.SIGSTOP)
        running.wait_for(is_told("living"))
        os.kill(pid_of(running, "living"), signal.SIGCONT)
        wait_until(lambda: is_told()(last_told(running)))
        assert not any(map(named("process_hung", "living"), running.records))
        assert running.terminate() == 0


def test_a_supervisor_that_was_suspended_itself_kills_nobody(supervise):
    with supervise("living", DESK_HANG_TIMEOUT="3") as running:
        running.ready()
        os.killpg(running.pid, signal.SIGSTOP)  # as when a container is frozen
        time.sleep(4)  # the time is what is tested
        os.killpg(running.pid, signal.SIGCONT)
        assert running.terminate() == 0
        assert not any(map(named("process_hung", "living"), running.records))


def is_told(*names):
    return lambda record: record["event"] == "told" and record["names"] == [*names]


def last_told(running):
    return [record for record in running.records if record["event"] == "told"][-1]

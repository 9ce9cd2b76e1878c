"""SIGKILL to each process under load, again and again: nothing is lost, nothing is doubled."""

import json
import os
import signal
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.processes import RunningDesk, simulating, start, wait_until
from tests.support.views import applied

KILLS = 2
SESSIONS = 30
"""For each kill; several hundred callbacks."""


def load(desk: RunningDesk, seed: int) -> AbstractContextManager["subprocess.Popen[str]"]:
    """Start a simulation of `SESSIONS` sessions, which verifies itself at its end."""
    return simulating(
        desk,
        *("--sessions", str(SESSIONS), "--seed", str(seed), "--rate", "75"),
        *("--duplicates", "10%", "--shuffle", "30%", "--impossible", "5%"),
        *("--retry-for", "60", "--verify", desk.target),
    )


def started(desk: RunningDesk, part: str) -> list[int]:
    """Process ids of a part, oldest first."""
    return [
        record["pid"]
        for record in desk.records
        if record["event"] == "process_started" and record["name"] == part
    ]


def readied(desk: RunningDesk, part: str) -> int:
    """Count the times that a part has reported to be ready."""
    return sum(
        record["event"] == "process_ready" and record["name"] == part for record in desk.records
    )


@pytest.mark.parametrize(
    "part",
    [
        "gateway",
        pytest.param("follower", marks=pytest.mark.tools),
        pytest.param("rpc-1", marks=pytest.mark.tools),
    ],
)
def test_a_process_killed_under_load_loses_and_doubles_nothing(part: str, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with start("serve", data_dir=data_dir) as desk:
        desk.ready()
        for kill in range(1, KILLS + 1):
            before = applied(data_dir)
            with load(desk, seed=kill) as simulation:
                wait_until(lambda least=before + 50: applied(data_dir) >= least)
                assert simulation.poll() is None, "the load ended before the kill"
                os.kill(started(desk, part)[-1], signal.SIGKILL)
                out, _ = simulation.communicate(timeout=200)
            assert simulation.returncode == 0, out
            summary = json.loads(out)
            assert (summary["verification"]["details"], summary["unknown"]) == ([], 0)
            assert summary["verification"]["sessions"] == SESSIONS
            wait_until(lambda times=kill + 1: readied(desk, part) >= times)
        assert desk.terminate() == 0

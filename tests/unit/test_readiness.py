"""The readiness of a worker: from the view's progress, its lag, and signs of life."""

import math
import os
import re
import time
from pathlib import Path

from service.rpc.readiness import Readiness
from service.view import store
from service.view.progress import Progress

CURRENT = Progress("journal", "fingerprint")


def view(folder: Path, *, read_ago: float = 0.0) -> Path:
    path = folder / "view.db"
    store.lock_path(path).touch()
    os.utime(store.lock_path(path), (time.time() - read_ago,) * 2)
    return path


def behind(seconds: float) -> Progress:
    since = int((time.time() - seconds) * 1000)
    return Progress("journal", "fingerprint", behind_since=since)


def readiness(path: Path, max_lag: float = 60.0, *silent: str) -> Readiness:
    return Readiness(path, max_lag, lambda: silent)


def test_a_view_that_is_current_is_ready(tmp_path: Path) -> None:
    ready = readiness(view(tmp_path))
    assert ready.update(CURRENT)
    assert ready.reason == ""


def test_a_view_that_cannot_go_on_is_not_ready_and_the_reason_is_its_problem(
    tmp_path: Path,
) -> None:
    ready = readiness(view(tmp_path))
    assert not ready.update(Progress("journal", "fingerprint", problem="JOURNAL_DIVERGED: why"))
    assert ready.reason == "JOURNAL_DIVERGED: why"


def test_silent_processes_are_named(tmp_path: Path) -> None:
    ready = readiness(view(tmp_path), 60.0, "follower", "rpc-1")
    assert not ready.update(CURRENT)
    assert ready.reason == "no sign of life from follower, rpc-1"


def test_a_view_that_was_late_is_ready_again_once_it_is_half_as_late(tmp_path: Path) -> None:
    ready = readiness(view(tmp_path))
    assert ready.update(behind(50))
    assert not ready.update(behind(70))
    assert re.fullmatch(r"the view is [7-9]\d s behind the journal", ready.reason)
    assert not ready.update(behind(40))
    assert ready.update(behind(20))
    assert ready.update(behind(50))


def test_a_journal_that_was_not_read_for_long_makes_a_view_late(tmp_path: Path) -> None:
    ready = readiness(view(tmp_path, read_ago=70))
    assert not ready.update(CURRENT)
    assert re.fullmatch(r"the follower has not read the journal for [7-9]\d s", ready.reason)
    view(tmp_path, read_ago=20)
    assert ready.update(CURRENT)


def test_a_view_without_a_follower_is_not_ready(tmp_path: Path) -> None:
    assert not readiness(tmp_path / "view.db").update(CURRENT)


def test_without_a_limit_no_view_is_late(tmp_path: Path) -> None:
    assert readiness(tmp_path / "view.db", math.inf).update(behind(1e6))

"""The files of running benchmarks, and the processes that they start.

The directory is beside the code and not in /tmp, which may be in memory: durable data must really
be written to a disk.
"""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

CORES = len(os.sched_getaffinity(0))

SDK_APP_ID = 1600012345

START_WITHIN = 60.0
"""Seconds from the start of a process to its ready line."""

END_WITHIN = 15.0
"""Seconds from SIGTERM to the end of a process; then it is killed."""


@cache
def _root() -> Path:
    parent = ROOT / "benchmarks" / ".work"
    parent.mkdir(exist_ok=True)
    root = Path(tempfile.mkdtemp(dir=parent))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


def new_directory(name: str) -> Path:
    """Return a new, empty directory. It is removed when the program ends, or by the caller."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_root()))


@contextmanager
def directory(name: str) -> Iterator[Path]:
    """Yield a new, empty directory, and remove it at the end of the block."""
    path = new_directory(name)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Ready:
    """A running process, and the output of its ready line."""

    def __init__(self, process: subprocess.Popen[str], said: Any) -> None:
        self.process = process
        self.pid = process.pid
        self.said = said


@contextmanager
def child(
    *command: str,
    is_ready: Callable[[str], Any],
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    within: float = START_WITHIN,
) -> Iterator[Ready]:
    """Run a process inside the block.

    Args:
        command: the program and its arguments.
        is_ready: called with each line of the output (stdout and stderr), until it returns
            something other than None, which becomes `Ready.said`.
        env: added to the environment.
        user: the user of the process; None: the present one.
        within: seconds in which it must become ready.

    Raises:
        RuntimeError: the process ended, or did not become ready in time.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DESK_")}
    process = subprocess.Popen(
        command,
        env={**inherited, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(env or {})},
        cwd=_root(),  # a directory without .env
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        user=user,
    )
    try:
        yield Ready(process, _await_ready(process, is_ready, within))
    finally:
        _end(process)


def peer(module: str, *arguments: str, env: Mapping[str, str] | None = None) -> Any:
    """Run `benchmarks.peers.<module>`, which prints one line of JSON when it is ready."""
    command = (sys.executable, "-m", f"benchmarks.peers.{module}", *arguments)
    return child(*command, is_ready=_json, env=env)


def desk(
    *arguments: str,
    data_dir: Path,
    within: float = START_WITHIN,
    settings: Mapping[str, str] = {},
) -> Any:
    """Run a `desk` server command on free ports. `said` is its log record with http and grpc."""
    env = {
        "DESK_DATA_DIR": str(data_dir),
        "DESK_HTTP_LISTEN": "127.0.0.1:0",
        "DESK_GRPC_LISTEN": "127.0.0.1:0",
        "DESK_METRICS_LISTEN": "",
        "DESK_CONSOLE_LISTEN": "",
        "DESK_LOG_FORMAT": "json",
        "DESK_SDK_APP_IDS": str(SDK_APP_ID),
        **settings,
    }
    return child(
        sys.executable, "-m", "command", *arguments, is_ready=_ready_record, env=env, within=within
    )


def descendants(pid: int) -> list[int]:
    """Return the children of a process, and their children."""
    children = [
        int(each)
        for task in Path(f"/proc/{pid}/task").glob("*/children")
        for each in task.read_text().split()
    ]
    return children + [each for one in children for each in descendants(one)]


def _json(line: str) -> Any:
    return json.loads(line) if line.startswith("{") else None


def _ready_record(line: str) -> Any:
    record = _json(line)
    return record if record and record.get("event") == "ready" else None


def _await_ready(
    process: subprocess.Popen[str], is_ready: Callable[[str], Any], within: float
) -> Any:
    lines: list[str] = []
    found: list[Any] = []
    decided = threading.Event()

    def read() -> None:  # to the end: otherwise a full pipe would block the process
        for line in process.stdout or ():
            if found:
                continue
            lines.append(line)
            if (said := is_ready(line)) is not None:
                found.append(said)
                decided.set()
        decided.set()

    threading.Thread(target=read, daemon=True).start()
    decided.wait(within)
    if not found:
        raise RuntimeError(f"{process.args!r} did not become ready:\n{''.join(lines[-20:])}")
    return found[0]


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_WITHIN)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

"""The environment of the figures: processor, kernel, disk, versions, load of the machine."""

import os
import platform
import statistics
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import apsw

from benchmarks.work import CORES, ROOT, directory

VERSIONS = (
    "falcon", "waitress", "greenlet", "grpcio", "protobuf", "msgspec", "apsw",
    "fastapi", "uvicorn", "uvloop", "httptools", "asyncpg",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """Return the environment for JSON."""
    return {
        "processor": _processor(),
        "cores": CORES,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "versions": {name: version for name in VERSIONS if (version := _version(name))},
        "commit": _commit(),
        "sync_ms": round(_sync_ms(), 3),
        "load_before": os.getloadavg()[0],
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _sync_ms() -> float:
    """Return the median of 100 times to make 4 KiB durable, in ms."""
    with directory("sync") as path, open(path / "file", "wb", buffering=0) as file:
        return statistics.median(_timed_sync(file) for _ in range(100)) * 1000


def _timed_sync(file: Any) -> float:
    began = time.perf_counter()
    file.write(b"x" * 4096)
    os.fdatasync(file.fileno())
    return time.perf_counter() - began

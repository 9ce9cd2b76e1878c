"""Memory and processor time of processes, as the kernel counts them. Linux only."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from benchmarks.work import descendants

_TICKS = os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    return _memory(pid, "VmRSS")


def peak_rss_mb(pid: int) -> float:
    """Return the highest resident memory of a process so far in MB."""
    return _memory(pid, "VmHWM")


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far, of all its threads."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / _TICKS


def roles(pid: int) -> dict[str, int]:
    """Return the processes of a `desk` server command by role, recognised by their open files."""
    named = {"supervisor": pid}
    for child in descendants(pid):
        with suppress(FileNotFoundError):  # it ended after it was listed
            named[_role(child)] = child
    return named


def _role(pid: int) -> str:
    files = " ".join(_open_files(pid))
    journal, view = "journal.db" in files, "view-" in files
    if journal and view:
        return "follower"
    if view:
        return "rpc worker"
    return "gateway" if journal else "resource tracker"


def _open_files(pid: int) -> Iterator[str]:
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed after it was listed
            yield os.readlink(each)


def _memory(pid: int, field: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    (kib,) = re.findall(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    return int(kib) * 1024 / 1e6

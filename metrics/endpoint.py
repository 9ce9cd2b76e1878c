"""A process's own page, on a Unix socket in the runtime folder.

A thread answers each connection with the page. Nothing is shared with other processes, and nothing
is computed before somebody asks.
"""

import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest

from metrics.definitions import PROCESS
from metrics.instruments import Group

SUFFIX = ".sock"
"""End of a socket's name; the beginning is the name of the process."""

END = b"# EOF\n"
"""The last line of a page. One without it is not whole: its process died meanwhile."""

PATIENCE = 1.0
"""Seconds for the reader to take the page; also the pause after a failure to accept."""

log = structlog.get_logger()


def open_endpoint(folder: Path, process: str, *groups: Group) -> None:
    """Answer with the page of these groups from now on. Without a socket, log that and go on."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    for instrument in dict.fromkeys(each for group in (PROCESS, *groups) for each in group):
        registry.register(instrument)
    path = folder / f"{process}{SUFFIX}"
    try:
        path.unlink(missing_ok=True)  # of a process of this name that died
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen(4)
    except OSError as error:
        log.warning("metrics_not_served", reason=f"{path}: {error.strerror or error}")
        return
    threading.Thread(target=_answer, args=(listener, registry), name="metrics", daemon=True).start()


def _answer(listener: socket.socket, registry: CollectorRegistry) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # no file descriptor left
            time.sleep(PATIENCE)
            continue
        with connection, suppress(OSError):
            connection.settimeout(PATIENCE)
            connection.sendall(generate_latest(registry) + END)

"""Opening what is not there yet: try until it is possible, and log the reason of the wait."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from command.notifier import Notifier
from journal.errors import Unavailable

RETRY = 0.2
"""Seconds between two attempts."""

WARN_AFTER = 5.0
"""Seconds of such attempts after which a warning is logged."""

log = structlog.get_logger()

T = TypeVar("T")


class Stopped(Exception):
    """The process was asked to stop before it could begin its work."""


class WaitingLog:
    """Logs why the journal cannot be opened: once at the beginning, once after `WARN_AFTER`."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._lines = [(0.0, log.info), (WARN_AFTER, log.warning)]

    def __call__(self, reason: str) -> None:
        if self._lines and time.monotonic() - self._since >= self._lines[0][0]:
            self._lines.pop(0)[1]("waiting_for_journal", reason=reason)


def open_with_retries(open_: Callable[[], T], stop: threading.Event, notifier: Notifier) -> T:
    """Call `open_` until it does not raise `Unavailable`, and return its result.

    Raises:
        Stopped: `stop` was set before.
    """
    note = WaitingLog()
    while not stop.is_set():
        try:
            return open_()
        except Unavailable as reason:
            notifier.alive()
            note(str(reason))
            stop.wait(RETRY)
    raise Stopped

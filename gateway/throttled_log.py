"""Logs what repeats without flooding: the first of a kind at once, then how many more there were.

Neither a full disk nor a sender without a signature may fill the log.
"""

from collections.abc import Callable
from threading import Lock
from time import monotonic
from typing import Any

import structlog

PERIOD = 5.0
"""Seconds between two lines of one kind."""

MAX_KINDS = 256
"""Kinds that are counted apart; beyond that, all counts begin anew."""

_log = structlog.get_logger(__name__)


class ThrottledLog:
    """A log with at most one line per kind and `PERIOD`.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._kinds: dict[tuple[str, str], tuple[float, int]] = {}

    def log(self, event: str, *, reason: str = "", **facts: Any) -> None:
        """Log a warning; if one of its kind was logged just now, only count it.

        Args:
            event: the log event; with `reason`, the kind.
            reason: a word or sentence of ours, never of the request.
            facts: about this one.
        """
        now = self._clock()
        with self._lock:
            logged_at, more = self._kinds.get((event, reason), (now - PERIOD, 0))
            if now < logged_at + PERIOD:
                self._kinds[event, reason] = (logged_at, more + 1)
                return
            if len(self._kinds) >= MAX_KINDS:
                self._kinds.clear()
            self._kinds[event, reason] = (now, 0)
        if reason:
            facts["reason"] = reason
        _log.warning(event, suppressed=more, **facts)

"""The throttle of the log: an error that repeats for long does not fill it.

The first line of a kind is logged at once, then one line a period with the number left out.
"""

import logging
from collections.abc import Callable, Hashable
from threading import Lock
from time import monotonic

import structlog
from structlog.typing import EventDict, WrappedLogger

PERIOD = 5.0
"""Seconds between two lines of one kind."""

MAX_KINDS = 256
"""Kinds that are counted apart within a period; further ones of an event count as one."""


class Throttle:
    """A counter of log lines by kind, and a structlog processor.

    The processor looks at events with a key `throttle`. Their kind is the event's name with the
    value of that key, which it replaces by `suppressed`, the number of lines left out before:

        log.warning("callback_refused", reason=reason, throttle=reason)

    Args:
        period: seconds between two lines of one kind.
        max_kinds: kinds that are counted apart.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        period: float = PERIOD,
        max_kinds: int = MAX_KINDS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._period = period
        self._max_kinds = max_kinds
        self._clock = clock
        self._lock = Lock()
        self._kinds: dict[Hashable, tuple[float, int]] = {}

    def admit(self, kind: Hashable, *, event: str = "") -> int | None:
        """Return the number of lines left out before this one; None: leave it out.

        Args:
            kind: of the line. Callers of a service may make kinds up.
            event: what counts as the kind once there are too many.
        """
        now = self._clock()
        with self._lock:
            if kind not in self._kinds and self._is_full(now):
                kind = event
            logged_at, suppressed = self._kinds.get(kind, (now - self._period, 0))
            if now < logged_at + self._period:
                self._kinds[kind] = (logged_at, suppressed + 1)
                return None
            self._kinds[kind] = (now, 0)
            return suppressed

    def _is_full(self, now: float) -> bool:
        """Return True if there is no room for a kind, also without those that are over."""
        if len(self._kinds) >= self._max_kinds:
            end = now - self._period
            self._kinds = {kind: last for kind, last in self._kinds.items() if last[0] > end}
        return len(self._kinds) >= self._max_kinds

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """Drop an event if one of its kind was logged within the period."""
        if "throttle" not in event:
            return event
        name = event["event"]
        suppressed = self.admit((name, event.pop("throttle")), event=name)
        if suppressed is None:
            raise structlog.DropEvent
        event["suppressed"] = suppressed
        return event


class ThrottledLogger(logging.Filter):
    """A filter that throttles the records of one of the standard library's loggers.

    The kind of a record is its message. `record.suppressed` is the number left out before.

    Args:
        name: of the logger; those below it are throttled too.
        throttle: counts the records.
    """

    def __init__(self, name: str, throttle: Throttle) -> None:
        super().__init__(name)
        self._throttle = throttle

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if a record is to be logged."""
        if not super().filter(record):
            return True
        suppressed = self._throttle.admit(record.getMessage())
        vars(record)["suppressed"] = suppressed
        return suppressed is not None

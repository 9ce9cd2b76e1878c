"""Whether the gateway should get traffic, as far as the journal decides it.

Knows nothing of HTTP.
"""

import threading
from collections.abc import Callable
from time import monotonic

from journal.errors import JournalError
from journal.port import Journal

HOLD = 5.0
"""Seconds for which a failed append counts. After that only new traffic can tell whether the
journal has recovered, and without readiness no traffic comes: so the gateway asks for some."""


class Readiness:
    """Remembers how the last append went, and asks the journal where that does not tell.

    Args:
        journal: asked for its head.
        clock: seconds, monotonic.
    """

    def __init__(self, journal: Journal, *, clock: Callable[[], float] = monotonic) -> None:
        self._journal = journal
        self._clock = clock
        self._failed_at: float | None = None
        self._asking = threading.Lock()

    def append_succeeded(self) -> None:
        """Forget earlier failures."""
        self._failed_at = None

    def append_failed(self) -> None:
        """The journal did not keep an entry."""
        self._failed_at = self._clock()

    def trouble(self) -> str:
        """Say why there should be no traffic; "" if there should."""
        failed_at = self._failed_at
        if failed_at is not None and self._clock() - failed_at < HOLD:
            return "the journal did not keep the last callback"
        return self._ask()

    def _ask(self) -> str:
        # One at a time: a journal that hangs may hold one thread of ours, and not all of them.
        if not self._asking.acquire(blocking=False):
            return "the journal does not answer"
        try:
            self._journal.head()
        except JournalError as error:
            return f"the journal cannot be read: {type(error).__name__}"
        finally:
            self._asking.release()
        return ""

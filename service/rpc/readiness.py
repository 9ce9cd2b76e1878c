"""The readiness of a worker: the reason for which health is NOT_SERVING, if any."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from service.view import store
from service.view.progress import Progress


class Readiness:
    """Decides from the view's progress, and from the signs of life of the other processes.

    Attributes:
        reason: for which the worker is not ready; "" if it is. As of the last `update`.

    Args:
        view: the view's file.
        max_lag: seconds of lag; a view that exceeded it is ready again below half of it.
        silent_processes: returns the processes that give no sign of life.
    """

    def __init__(
        self, view: Path, max_lag: float, silent_processes: Callable[[], Sequence[str]]
    ) -> None:
        self.reason = ""
        self._view = view
        self._max_lag = max_lag
        self._allowed_lag = max_lag
        self._silent_processes = silent_processes

    def update(self, progress: Progress | None) -> bool:
        """Decide again; return True if the worker is ready. Without progress it is not."""
        if progress is None:
            self.reason = "the view cannot be read"
        else:
            self.reason = progress.problem or self._silence() or self._lag(progress)
        return not self.reason

    def _silence(self) -> str:
        silent = self._silent_processes()
        return f"no sign of life from {', '.join(silent)}" if silent else ""

    def _lag(self, progress: Progress) -> str:
        """Return the reason if the view is too far behind, or the journal was not read lately."""
        now = time.time()
        late = now - progress.behind_since / 1000 if progress.behind_since is not None else 0.0
        unread = now - (store.last_seen(self._view) or 0.0)
        is_behind = max(late, unread) > self._allowed_lag
        self._allowed_lag = self._max_lag / 2 if is_behind else self._max_lag
        if not is_behind:
            return ""
        if late >= unread:
            return f"the view is {late:.0f} s behind the journal"
        return f"the follower has not read the journal for {unread:.0f} s"

"""Starts child processes, restarts those that die, and stops them in order.

Knows nothing of the children's work. SIGTERM asks a child to stop.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog

from command.notifier import BEAT
from command.signals import Signals
from command.supervised import SILENT_AFTER, CannotKeepRunning, ProcessSpec, Supervised

STOP_WITHIN = 9.0
"""Seconds from the first signal until the remaining children are killed. Docker waits 10 s."""

STAGE_WITHIN = 6.0
"""Seconds that one stage may take to stop before the next one is asked to stop too."""

HANG_TIMEOUT = 30.0
"""Seconds without a sign of life after which a child is killed, and started again."""

START_WITHIN = 60.0
"""Seconds that a child may take to its first sign of life, unless the timeout is longer."""

log = structlog.get_logger()


class Supervisor:
    """Keeps processes running until a signal stops it.

    Attributes:
        failure: the reason for giving up, in one line; empty if it did not.
    """

    def __init__(
        self,
        specs: Iterable[ProcessSpec],
        *,
        on_ready: Callable[[], None],
        on_stop: Callable[[], None] = lambda: None,
        on_silent: Callable[[frozenset[str]], None] = lambda _: None,
        stop_within: float = STOP_WITHIN,
        hang_timeout: float = HANG_TIMEOUT,
        silent_after: float = SILENT_AFTER,
        start_within: float = START_WITHIN,
    ) -> None:
        """Prepare; `run` starts the processes.

        Args:
            specs: the processes.
            on_ready: called once, when every process has been ready.
            on_stop: called once, before the first process is asked to stop.
            on_silent: called with the names of the processes that give no sign of life, whenever
                they change.
            stop_within: seconds that all processes together may take to stop.
            hang_timeout: seconds without a sign of life until a process is killed; 0: never.
            silent_after: seconds without a sign of life until a process counts as silent.
            start_within: seconds that a process may take to its first sign of life.
        """
        self.failure = ""
        self._children = [Supervised(spec) for spec in specs]
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._on_silent = on_silent
        self._stop_within = stop_within
        self._hang_timeout = hang_timeout
        self._silent_after = silent_after
        self._start_within = start_within
        self._silent: frozenset[str] = frozenset()

    def run(self) -> int:
        """Run until SIGTERM or SIGINT, or until a process cannot be kept running.

        SIGHUP is passed on to all processes.

        Returns:
            The exit code: 0 = stopped by a signal, 1 = failed, or a process had to be killed.
        """
        with Signals() as signals:
            try:
                self._keep_running(signals)
            except CannotKeepRunning as reason:
                self.failure = str(reason)
                log.critical("giving_up", reason=self.failure)
            ended = self._stop(signals)
        return 0 if ended and not self.failure else 1

    def _keep_running(self, signals: Signals) -> None:
        announced, reloads = False, 0
        while not signals.count:
            if reloads != signals.reloads:
                reloads = signals.reloads
                log.info("reloading")
                for child in self._children:
                    child.reload()
            for child in self._children:
                child.poll()
                child.end_hang(self._hang_timeout, self._start_within)
            self._note_silent()
            if not announced and all(child.ready for child in self._children):
                announced = True
                self._on_ready()
            pauses = [child.pause for child in self._children if child.pause is not None]
            signals.wait(self._sources(), timeout=min([*pauses, BEAT]))

    def _note_silent(self) -> None:
        silent = frozenset(
            child.spec.name for child in self._children if child.silence > self._silent_after
        )
        if silent != self._silent:
            self._silent = silent
            log.warning("silent_processes", names=sorted(silent))
            self._on_silent(silent)

    def _sources(self) -> list[Any]:
        return [source for child in self._children for source in child.sources]

    def _stop(self, signals: Signals) -> bool:
        """Stop the processes stage by stage. Return True if none had to be killed."""
        log.info("stopping")
        self._on_stop()
        deadline = time.monotonic() + self._stop_within
        for stage in sorted({child.spec.stage for child in self._children}):
            members = [child for child in self._children if child.spec.stage == stage]
            for child in members:
                child.terminate()
            self._await_end(members, signals, min(deadline, time.monotonic() + STAGE_WITHIN))
        self._await_end(self._children, signals, deadline)
        stuck = [child for child in self._children if child.is_alive]
        for child in stuck:
            child.kill()
        log.info("stopped")
        return not stuck

    def _await_end(self, children: Sequence[Supervised], signals: Signals, deadline: float) -> None:
        while alive := [child.sentinel for child in children if child.is_alive]:
            left = deadline - time.monotonic()
            if left <= 0 or signals.insisted:
                return
            signals.wait(alive, timeout=left)

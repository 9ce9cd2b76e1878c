"""A process to keep running, as its supervisor sees it: start, reports, death, restart.

Processes are spawned, never forked: a fork would copy threads' locks and gRPC's state.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import structlog

from command.notifier import Notifier

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds before a restart, doubled with each death in a row."""

STABLE_AFTER = 30.0
"""Seconds of life after which a death counts as the first in a row."""

MAX_FAILED_STARTS = 5
"""Deaths in a row of a child that was never ready, after which the supervisor gives up."""

SILENT_AFTER = 6.0
"""Seconds without a sign of life after which a child counts as silent."""

LONGEST_LOOK = 2.0
"""Seconds of silence counted between two looks, at most: a supervisor that was suspended has not
read the reports meanwhile."""

_SPAWN = multiprocessing.get_context("spawn")

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """A process to keep running.

    Attributes:
        name: for logs; unique.
        run: called in the child with a `Notifier` and `arguments`; an importable function.
        arguments: must pickle; sockets may be among them.
        stage: the processes of a lower stage are stopped before those of a higher one.
    """

    name: str
    run: Callable[..., None]
    arguments: tuple[Any, ...] = ()
    stage: int = 0


class CannotKeepRunning(Exception):
    """A process cannot be kept running."""


class Supervised:
    """A process spec, and the process that runs it at the moment, if any.

    Attributes:
        ready: it has been ready once.
        silence: seconds since its last report, also if it was started again since.
    """

    def __init__(self, spec: ProcessSpec) -> None:
        self.spec = spec
        self.ready = False
        self.silence = -SILENT_AFTER  # the first start takes longer
        self._looked_at = time.monotonic()
        self._unheard = 0.0  # seconds since the last report of this process, or since its start
        self._reported = False
        self._process: Any = None
        self._pipe: Connection | None = None
        self._trouble = ""
        self._deaths = 0
        self._started_at = 0.0
        self._restart_at = 0.0

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    @property
    def sentinel(self) -> int:
        return int(self._process.sentinel)

    @property
    def sources(self) -> list[Any]:
        """Objects to wait for: the end of the process, and its pipe."""
        pipes = [self._pipe] if self._pipe is not None else []
        return [self.sentinel, *pipes] if self._process is not None else []

    @property
    def pause(self) -> float | None:
        """Seconds until the next start; None while the process is there."""
        return max(0.0, self._restart_at - time.monotonic()) if self._process is None else None

    def poll(self) -> None:
        """Read the process's reports, reap it if it died, start it if it is due."""
        now = time.monotonic()
        passed = min(now - self._looked_at, LONGEST_LOOK)
        self.silence += passed
        self._unheard += passed
        self._looked_at = now
        died = self._process is not None and not self._process.is_alive()
        self._receive()  # after the check above, so that no report from before the death is missed
        if died:
            self._reap()
        if self.pause == 0.0:
            self._start()

    def end_hang(self, timeout: float, start_within: float) -> None:
        """Kill the process if it gave no sign of life for long. A timeout of 0 means never."""
        limit = timeout if self._reported else max(timeout, start_within)
        if timeout and self._unheard > limit and self.is_alive:
            self._trouble = f"gave no sign of life for {limit:g} s"
            log.error("process_hung", name=self.spec.name, pid=self._process.pid, after_s=limit)
            self._process.kill()
            self._unheard = 0.0

    def terminate(self) -> None:
        if self.is_alive:
            self._process.terminate()

    def reload(self) -> None:
        if self.is_alive:
            os.kill(self._process.pid, signal.SIGHUP)

    def kill(self) -> None:
        log.error("process_killed", name=self.spec.name, pid=self._process.pid)
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        self._trouble, self._started_at = "", time.monotonic()
        self._unheard, self._reported = 0.0, False
        try:
            self._process = self._spawn()
        except OSError as error:  # too few processes, memory or files: perhaps not for long
            self._trouble = f"cannot be started: {error.strerror}"
            self._died(exit_code=None)
        else:
            log.info("process_started", name=self.spec.name, pid=self._process.pid)

    def _spawn(self) -> Any:
        self._pipe, childs_end = _SPAWN.Pipe(duplex=False)
        with childs_end, _signals_blocked():
            process = _SPAWN.Process(  # daemon: killed also if the supervisor itself fails
                target=self.spec.run,
                args=(Notifier(childs_end), *self.spec.arguments),
                name=self.spec.name,
                daemon=True,
            )
            process.start()
        return process

    def _receive(self) -> None:
        while self._pipe is not None and self._pipe.poll():
            try:
                word, reason = self._pipe.recv()
            except (EOFError, OSError):
                self._pipe.close()
                self._pipe = None
                return
            if word == "failed":
                raise CannotKeepRunning(f"{self.spec.name}: {reason}")
            self.silence = self._unheard = 0.0
            self._reported = True
            if word == "ready":
                self._note_ready()
            if word != "alive":
                self._trouble = reason

    def _note_ready(self) -> None:
        self.ready = True
        seconds = round(time.monotonic() - self._started_at, 3)
        log.info("process_ready", name=self.spec.name, after_s=seconds)

    def _reap(self) -> None:
        code = self._process.exitcode
        self._process.close()
        self._process = None
        self._trouble = self._trouble or _killed_by(code)
        self._died(exit_code=code)

    def _died(self, *, exit_code: int | None) -> None:
        lived = time.monotonic() - self._started_at
        self._deaths = 1 if lived > STABLE_AFTER else self._deaths + 1
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._deaths - 1, 20))
        log.warning(
            "process_died",
            name=self.spec.name,
            exit_code=exit_code,
            reason=self._trouble,
            lived_s=round(lived, 3),
            restart_in_s=pause,
        )
        if not self.ready and self._deaths >= MAX_FAILED_STARTS:
            why = f" while starting: {self._trouble}" if self._trouble else " while starting"
            raise CannotKeepRunning(f"{self.spec.name} died {MAX_FAILED_STARTS} times{why}")
        self._restart_at = time.monotonic() + pause


def _killed_by(exit_code: int) -> str:
    """Return a sentence that names the signal that ended a process; empty if none did."""
    number = -exit_code
    return f"killed by signal {number} ({signal.strsignal(number)})" if number > 0 else ""


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGHUP in a child until it handles them: the whole group may get them."""
    signals = {signal.SIGINT, signal.SIGHUP}
    # Start it now: otherwise the first child's start does, which unblocks SIGINT.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

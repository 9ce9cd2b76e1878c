"""Starts child processes, restarts those that die, and stops them in order.

Knows nothing of the children's work. They are spawned, never forked: a fork would copy threads'
locks and gRPC's state. SIGTERM asks a child to stop; a child reports its state by a `Notifier`.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import structlog

from command.signals import Signals

STOP_WITHIN = 9.0
"""Seconds from the first signal until the remaining children are killed. Docker waits 10 s."""

STAGE_WITHIN = 6.0
"""Seconds that one stage may take to stop before the next one is asked to stop too."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds before a restart, doubled with each death in a row."""

STABLE_AFTER = 30.0
"""Seconds of life after which a death counts as the first in a row."""

MAX_REASON = 500
"""Characters of the reason that a child reports."""

MAX_FAILED_STARTS = 5
"""Deaths in a row of a child that was never ready, after which the supervisor gives up."""

HANG_TIMEOUT = 30.0
"""Seconds without a sign of life after which a child is killed, and started again."""

START_WITHIN = 60.0
"""Seconds that a child may take to its first sign of life, unless the timeout is longer."""

SILENT_AFTER = 6.0
"""Seconds without a sign of life after which a child counts as silent."""

BEAT = 1.0
"""Seconds between two signs of life, and between two looks of the supervisor."""

LONGEST_LOOK = 2.0
"""Seconds of silence counted between two looks: a supervisor that was suspended itself has not
listened meanwhile."""

_SPAWN = multiprocessing.get_context("spawn")

log = structlog.get_logger()


class Notifier:
    """Reports the state of a child process to its supervisor. A reason is one line."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._next_sign = 0.0

    def ready(self) -> None:
        """Report that the child is at work."""
        self._send("ready", "")

    def alive(self) -> None:
        """Report that the child's main loop turns, at most once in `BEAT` seconds. Never block.

        A child that gives none for long is killed and started again.
        """
        now = time.monotonic()
        if now >= self._next_sign:
            self._next_sign = now + BEAT
            os.set_blocking(
                self._pipe.fileno(), False
            )  # a supervisor that is stopped reads nothing
            self._send("alive", "")

    def trouble(self, reason: str) -> None:
        """Report why the child is about to exit. It is started again."""
        self._send("trouble", reason)

    def failed(self, reason: str) -> None:
        """Report why the child cannot work. It is not started again: the supervisor gives up."""
        self._send("failed", reason)

    def _send(self, word: str, reason: str) -> None:
        with suppress(OSError):  # the supervisor is gone, which stops the child as well
            self._pipe.send((word, " ".join(reason.split())[:MAX_REASON]))


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
        self._children = [_Child(spec) for spec in specs]
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
            except _GiveUp as reason:
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

    def _await_end(self, children: Sequence["_Child"], signals: Signals, deadline: float) -> None:
        while alive := [child.sentinel for child in children if child.is_alive]:
            left = deadline - time.monotonic()
            if left <= 0 or signals.insisted:
                return
            signals.wait(alive, timeout=left)


class _GiveUp(Exception):
    """A process cannot be kept running."""


class _Child:
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
                raise _GiveUp(f"{self.spec.name}: {reason}")
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
            why = f": {self._trouble}" if self._trouble else ""
            raise _GiveUp(f"{self.spec.name} died {MAX_FAILED_STARTS} times while starting{why}")
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

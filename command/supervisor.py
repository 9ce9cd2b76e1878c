"""Starts child processes, restarts those that die, and stops them in order.

Knows nothing of what the children do. They are spawned, never forked: a fork would copy threads'
locks and gRPC's state. A child is told to stop by SIGTERM; how it tells of itself is `Report`.
"""

import multiprocessing
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
"""Seconds from the first signal until whatever still runs is killed; Docker waits 10 s for us."""

STAGE_WITHIN = 6.0
"""Seconds of these that one stage may take before the next one is told as well."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds before a restart; doubled with each death."""

STABLE_AFTER = 30.0
"""Seconds of life after which a death counts as the first one again."""

MAX_REASON = 500
"""Characters of a child's reason for its end."""

MAX_FAILED_STARTS = 5
"""Deaths in a row, before the child was ever ready, after which the supervisor gives up."""

_SPAWN = multiprocessing.get_context("spawn")

log = structlog.get_logger()


class Report:
    """A child's line to its supervisor."""

    def __init__(self, line: Connection) -> None:
        self._line = line

    def ready(self) -> None:
        """Say that the child does its work."""
        self._send("ready", "")

    def trouble(self, reason: str) -> None:
        """Say, in one line, why the child is about to die; another start may help."""
        self._send("trouble", reason)

    def failed(self, reason: str) -> None:
        """Say, in one line, why the child cannot work and never will."""
        self._send("failed", reason)

    def _send(self, word: str, reason: str) -> None:
        with suppress(OSError):  # the supervisor is gone; the child will be told
            self._line.send((word, " ".join(reason.split())[:MAX_REASON]))


@dataclass(frozen=True, kw_only=True)
class Part:
    """A process to keep running.

    Attributes:
        name: for logs; unique.
        run: called in the child with a `Report` and `arguments`; an importable function.
        arguments: must pickle; sockets may be among them.
        stage: parts of a lower stage are stopped, and have ended, before those of a higher one.
    """

    name: str
    run: Callable[..., None]
    arguments: tuple[Any, ...] = ()
    stage: int = 0


class Supervisor:
    """Keeps parts running until it is told to stop.

    Attributes:
        failure: why it gave up, in one line; empty if it did not.
    """

    def __init__(
        self,
        parts: Iterable[Part],
        *,
        on_ready: Callable[[], None],
        on_stop: Callable[[], None] = lambda: None,
        stop_within: float = STOP_WITHIN,
    ) -> None:
        """Prepare.

        Args:
            parts: what to run.
            on_ready: called once, when every part has been ready.
            on_stop: called once, before the first part is told to stop.
            stop_within: seconds that all parts together may take to stop.
        """
        self.failure = ""
        self._children = [_Child(part) for part in parts]
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._stop_within = stop_within

    def run(self) -> int:
        """Run until SIGTERM, SIGINT or SIGHUP, or until a part fails for good.

        Returns:
            The exit code: 0 = stopped as told, 1 = failed, or something had to be killed.
        """
        with Signals() as signals:
            try:
                self._keep_running(signals)
            except _GaveUp as reason:
                self.failure = str(reason)
                log.critical("giving_up", reason=self.failure)
            ended = self._stop(signals)
        return 0 if ended and not self.failure else 1

    def _keep_running(self, signals: Signals) -> None:
        announced = False
        while not signals.count:
            for child in self._children:
                child.look_after()
            if not announced and all(child.ready for child in self._children):
                announced = True
                self._on_ready()
            pauses = [child.pause for child in self._children if child.pause is not None]
            signals.wait(self._sources(), timeout=min(pauses, default=None))

    def _sources(self) -> list[Any]:
        return [source for child in self._children for source in child.sources]

    def _stop(self, signals: Signals) -> bool:
        """Stop stage by stage; return whether all ended by themselves."""
        log.info("stopping")
        self._on_stop()
        deadline = time.monotonic() + self._stop_within
        for stage in sorted({child.part.stage for child in self._children}):
            members = [child for child in self._children if child.part.stage == stage]
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


class _GaveUp(Exception):
    """A part will not run."""


class _Child:
    """One part, and the process that is it at the moment."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.ready = False
        self._process: Any = None
        self._line: Connection | None = None
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
        """What to wait for: word from the process, or its end."""
        lines = [self._line] if self._line is not None else []
        return [self.sentinel, *lines] if self._process is not None else []

    @property
    def pause(self) -> float | None:
        """Seconds until the process is to be started; None while there is one."""
        return max(0.0, self._restart_at - time.monotonic()) if self._process is None else None

    def look_after(self) -> None:
        """Hear what the process reports, reap it if it died, start it if it is time."""
        died = self._process is not None and not self._process.is_alive()
        self._listen()  # after that look: what it said before it died is not missed
        if died:
            self._reap()
        if self.pause == 0.0:
            self._start()

    def terminate(self) -> None:
        if self.is_alive:
            self._process.terminate()

    def kill(self) -> None:
        log.error("process_killed", name=self.part.name, pid=self._process.pid)
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        self._trouble, self._started_at = "", time.monotonic()
        try:
            self._process = self._spawn()
        except OSError as error:  # no more processes, memory or files: there may be some later
            self._trouble = f"cannot be started: {error.strerror}"
            self._died(exit_code=None)
        else:
            log.info("process_started", name=self.part.name, pid=self._process.pid)

    def _spawn(self) -> Any:
        self._line, childs_end = _SPAWN.Pipe(duplex=False)
        with childs_end, _interrupts_blocked():
            process = _SPAWN.Process(  # daemon: killed also if the supervisor itself fails
                target=self.part.run,
                args=(Report(childs_end), *self.part.arguments),
                name=self.part.name,
                daemon=True,
            )
            process.start()
        return process

    def _listen(self) -> None:
        while self._line is not None and self._line.poll():
            try:
                word, reason = self._line.recv()
            except (EOFError, OSError):
                self._line.close()
                self._line = None
                return
            if word == "failed":
                raise _GaveUp(f"{self.part.name}: {reason}")
            if word == "ready":
                self._is_ready()
            self._trouble = reason

    def _is_ready(self) -> None:
        self.ready = True
        seconds = round(time.monotonic() - self._started_at, 3)
        log.info("process_ready", name=self.part.name, after_s=seconds)

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
            name=self.part.name,
            exit_code=exit_code,
            reason=self._trouble,
            lived_s=round(lived, 3),
            restart_in_s=pause,
        )
        if not self.ready and self._deaths >= MAX_FAILED_STARTS:
            why = f": {self._trouble}" if self._trouble else ""
            raise _GaveUp(f"{self.part.name} died {MAX_FAILED_STARTS} times while starting{why}")
        self._restart_at = time.monotonic() + pause


def _killed_by(exit_code: int) -> str:
    """Return the signal that ended a process, in words; empty if none did."""
    number = -exit_code
    return f"killed by signal {number} ({signal.strsignal(number)})" if number > 0 else ""


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Keeps SIGINT from a child until it ignores it: on Ctrl-C the whole group is sent one."""
    # Starting the first child also starts this, which unblocks SIGINT when it is done.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

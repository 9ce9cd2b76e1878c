"""How a process hears that it is to stop: the supervisor from outside, a child from its supervisor.

What stopping means is the caller's.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from types import FrameType
from typing import Any, Self

REPEATED_SIGNAL = 0.5
"""Seconds in which a second Ctrl-C is the first one again: wrappers pass it on to us as well."""

ORPHAN_WITHIN = 8.0
"""Seconds after which a child whose supervisor is gone ends, even if it has not finished."""


class Signals:
    """SIGTERM, SIGINT and SIGHUP as something to wait for, while used as a context manager.

    One that was ignored before stays ignored: `nohup` asks for that.

    Attributes:
        count: how many have come.
        insisted: a second Ctrl-C has come: stop at once.
    """

    def __init__(self) -> None:
        self.count = 0
        self.insisted = False
        self._first_at = 0.0

    def __enter__(self) -> Self:
        self._reader, self._writer = _wakeup_pipe()
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        # All that is left to do is to exit, and one more Ctrl-C must not spoil the exit code.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for signum in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, sources: Sequence[Any], *, timeout: float | None) -> None:
        """Wait until one of `sources` is ready, a signal comes, or `timeout` seconds pass."""
        if self._reader in wait([*sources, self._reader], timeout):
            os.read(self._reader, 512)

    def _note(self, signum: int, _: FrameType | None) -> None:
        now = time.monotonic()
        self._first_at = self._first_at or now
        self.count += 1
        if signum == signal.SIGINT and now - self._first_at > REPEATED_SIGNAL:
            self.insisted = True


def when_told_to_stop(stop: Callable[[], None]) -> None:
    """In a child: call `stop`, from a thread, at SIGTERM or when the supervisor is gone.

    Ctrl-C and the end of the terminal are the supervisor's business: it decides who stops when.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    told, _ = _wakeup_pipe()
    # A handler runs between any two instructions of the main thread, perhaps while that holds the
    # very lock that `stop` needs. So the handler does nothing and a thread does the rest.
    signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(target=_stop_when, args=(told, stop), name="stop", daemon=True).start()


def _stop_when(told: int, stop: Callable[[], None]) -> None:
    supervisor = multiprocessing.parent_process()
    gone = [supervisor.sentinel] if supervisor is not None else []
    wait([told, *gone])
    threading.Thread(target=stop, daemon=True).start()  # it may block, and must not block the rest
    wait(gone)
    time.sleep(ORPHAN_WITHIN)
    os._exit(1)


def _wakeup_pipe() -> tuple[int, int]:
    """A pipe that becomes readable as soon as a signal comes, whatever the main thread does."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader, writer

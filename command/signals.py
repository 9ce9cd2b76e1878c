"""Requests to stop or to reload: from outside to the supervisor, from it to its children.

What they mean is up to the caller.
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
"""Seconds after a Ctrl-C in which another is the same one, passed on by a wrapper."""

ORPHAN_WITHIN = 8.0
"""Seconds after the end of the supervisor until a child exits, finished or not."""


class Signals:
    """SIGTERM, SIGINT and SIGHUP to wait for, inside a `with` block.

    A signal that was ignored before stays ignored: `nohup` relies on it. SIGHUP asks to reload; if
    the terminal is gone, it asks to stop.

    Attributes:
        count: number of requests to stop so far.
        reloads: number of requests to reload so far.
        insisted: True after a second Ctrl-C: stop at once.
    """

    def __init__(self) -> None:
        self.count = 0
        self.reloads = 0
        self.insisted = False
        self._first_at = 0.0

    def __enter__(self) -> Self:
        self._has_terminal = _has_terminal()
        self._reader, self._writer = _wakeup_pipe()
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        # Only the exit is left, and another Ctrl-C must not change the exit code.
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
        if signum == signal.SIGHUP and _has_terminal() == self._has_terminal:
            self.reloads += 1
            return
        now = time.monotonic()
        self._first_at = self._first_at or now
        self.count += 1
        if signum == signal.SIGINT and now - self._first_at > REPEATED_SIGNAL:
            self.insisted = True


def on_stop_request(stop: Callable[[], None], reload: Callable[[], None] = lambda: None) -> None:
    """Call `stop` from a thread at SIGTERM or when the supervisor is gone. For child processes.

    A child ignores Ctrl-C: the supervisor decides the order of ends. `reload` is called from a
    thread at each SIGHUP.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, _ = _wakeup_pipe()
    # A handler runs between any two instructions of the main thread, which may hold the lock that
    # `stop` needs. So the handlers do nothing and a thread does the rest.
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # the supervisor has blocked it
    arguments = (requests, stop, reload)
    threading.Thread(target=_await_requests, args=arguments, name="stop", daemon=True).start()


def _await_requests(requests: int, stop: Callable[[], None], reload: Callable[[], None]) -> None:
    supervisor = multiprocessing.parent_process()
    gone = [supervisor.sentinel] if supervisor is not None else []
    while requests in wait([requests, *gone]):
        signals = os.read(requests, 512)
        if signal.SIGTERM in signals:
            break
        if signal.SIGHUP in signals:
            reload()
    threading.Thread(target=stop, daemon=True).start()  # because it may block
    wait(gone)
    time.sleep(ORPHAN_WITHIN)
    os._exit(1)


def _has_terminal() -> bool:
    """Return True if the process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _wakeup_pipe() -> tuple[int, int]:
    """Return a pipe that becomes readable when a signal comes, even if the main thread is busy."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader, writer

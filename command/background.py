"""An output that never blocks its writer: a thread of its own writes to the descriptor.

A pipe that nobody reads blocks its writer. Here it blocks only the thread of the output. Meanwhile,
writes are queued up to a limit; beyond the limit they are dropped and counted.
"""

import atexit
import io
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import NoReturn

MAX_WRITES, MAX_BYTES = 10_000, 1024 * 1024
"""Limits of the queue, for a reader that does not keep up."""

DRAIN_WITHIN = 0.5
"""Seconds that a process waits for the reader at its end. Several processes end in turn."""

_exit_code: int | None = None


class Output(io.BufferedIOBase):
    """A binary stream to a descriptor.

    After an overflow, all writes are dropped until the queue is empty.

    Attributes:
        dropped: writes dropped so far.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        on_dropped: Callable[[int], None] = lambda _number: None,
        max_writes: int = MAX_WRITES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Start the thread that writes to `descriptor`.

        Args:
            descriptor: stays open; it belongs to the caller.
            on_dropped: called in that thread, once the reader reads again, with the number of
                dropped writes. It may write.
            max_writes: limit of queued writes.
            max_bytes: limit of queued bytes.
        """
        self.name = descriptor  # the attribute's name in io's streams
        self._on_dropped = on_dropped
        self._max_writes, self._max_bytes = max_writes, max_bytes
        # Reentrant: a finalizer or a signal handler may write during a write in the same thread.
        self._changed = threading.Condition()
        self._pending: deque[bytes] = deque()
        self._bytes = 0
        self.dropped = 0
        self._unreported = 0  # of them
        self._overflowed = False
        self._busy = False
        threading.Thread(target=self._run, name="output", daemon=True).start()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self.name)

    def fileno(self) -> int:
        return self.name

    def write(self, data: bytes) -> int:  # type: ignore[override]  # any buffer there, bytes here
        """Queue `data`, or drop it. Return at once."""
        with self._changed:
            full = len(self._pending) >= self._max_writes or self._bytes >= self._max_bytes
            self._overflowed |= full
            if self._overflowed:
                self._drop()
            else:
                self._pending.append(bytes(data))
                self._bytes += len(data)
                self._changed.notify_all()
        return len(data)

    def drain(self, timeout: float) -> bool:
        """Wait, at most `timeout` seconds, until everything is written. Return True if it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending and not self._busy, timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending)
                data, self._busy = self._pending[0], True
            if dropped := self._done(written=self._write(data)):
                self._on_dropped(dropped)
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _write(self, data: bytes) -> bool:
        try:
            while data:
                data = data[os.write(self.name, data) :]
        except OSError:  # closed, or the disk is full
            return False
        return True

    def _done(self, *, written: bool) -> int:
        """Remove the first write. Return the number of dropped writes to report now, usually 0."""
        with self._changed:
            self._bytes -= len(self._pending.popleft())
            if not written:
                self._drop()
            if self._pending:
                return 0
            self._overflowed = False
            # Only after a success: otherwise the report would be dropped as well.
            dropped = self._unreported if written else 0
            self._unreported -= dropped
            return dropped

    def _drop(self) -> None:
        self.dropped += 1
        self._unreported += 1


def text_output(
    descriptor: int, *, on_dropped: Callable[[int], None] = lambda _number: None
) -> "io.TextIOWrapper[Output]":
    """Return a line-buffered text stream to `descriptor`. The process drains it at its end."""
    output = Output(descriptor, on_dropped=on_dropped)
    atexit.register(output.drain, DRAIN_WITHIN)
    return io.TextIOWrapper(output, "utf-8", errors="backslashreplace", line_buffering=True)


def leave(code: int) -> NoReturn:
    """Exit after all exit handlers, without the teardown of the interpreter.

    The teardown would take longer than everything else in a stop.
    """
    global _exit_code
    _exit_code = code
    sys.exit(code)


@atexit.register  # before all others, and so called after them
def _skip_teardown() -> None:
    if _exit_code is not None:
        os._exit(_exit_code)

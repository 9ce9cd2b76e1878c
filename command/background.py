"""An output that never makes its writer wait: a thread of its own writes to the descriptor.

A pipe that nobody reads blocks whoever writes to it. Here only the thread blocks; meanwhile writes
are kept up to a limit, and beyond it dropped and counted. Knows nothing of what is written.
"""

import atexit
import io
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import TextIO

MAX_WRITES, MAX_BYTES = 10_000, 1024 * 1024
"""Limits of what is kept for a reader that does not keep up."""

DRAIN_WITHIN = 0.5
"""Seconds that the end of the process waits for the reader; several processes end in turn."""


class Output(io.BufferedIOBase):
    """A descriptor as a binary stream. After an overflow it takes nothing until all is written."""

    def __init__(
        self,
        descriptor: int,
        *,
        on_dropped: Callable[[int], None] = lambda _number: None,
        max_writes: int = MAX_WRITES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Start writing to `descriptor`.

        Args:
            descriptor: stays open; it belongs to the caller.
            on_dropped: called in the thread, once the reader reads again, with the number of writes
                that were dropped. It may write.
            max_writes: limit of writes that wait.
            max_bytes: limit of bytes that wait.
        """
        self.name = descriptor  # as the streams of io call it
        self._on_dropped = on_dropped
        self._max_writes, self._max_bytes = max_writes, max_bytes
        # A garbage collection or a signal may write in the middle of a write: Condition allows it.
        self._changed = threading.Condition()
        self._pending: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._overflowed = False
        self._busy = False
        threading.Thread(target=self._run, name="output", daemon=True).start()

    def writable(self) -> bool:
        """Say yes."""
        return True

    def isatty(self) -> bool:
        """Return what holds for the descriptor."""
        return os.isatty(self.name)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.name

    def write(self, data: bytes) -> int:  # type: ignore[override]  # any buffer there, bytes here
        """Keep `data` to be written, or drop it; return at once."""
        with self._changed:
            full = len(self._pending) >= self._max_writes or self._bytes >= self._max_bytes
            self._overflowed |= full
            if self._overflowed:
                self._dropped += 1
            else:
                self._pending.append(bytes(data))
                self._bytes += len(data)
                self._changed.notify_all()
        return len(data)

    def drain(self, timeout: float) -> bool:
        """Wait until everything is written, at most `timeout` seconds; return whether it is."""
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
        """Make room; return how many writes were dropped if it is time to say so."""
        with self._changed:
            self._bytes -= len(self._pending.popleft())
            self._dropped += not written
            if self._pending:
                return 0
            self._overflowed = False
            # Only after a success: where nothing can be written, saying so would be dropped too.
            dropped = self._dropped if written else 0
            self._dropped -= dropped
            return dropped


def text_output(
    descriptor: int, *, on_dropped: Callable[[int], None] = lambda _number: None
) -> TextIO:
    """Return a text stream to `descriptor`, line by line; the process drains it when it ends."""
    output = Output(descriptor, on_dropped=on_dropped)
    atexit.register(output.drain, DRAIN_WITHIN)
    return io.TextIOWrapper(output, "utf-8", errors="backslashreplace", line_buffering=True)

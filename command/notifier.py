"""Reports of a child process to its supervisor: ready, alive, or the reason of its end."""

import os
import time
from contextlib import suppress
from multiprocessing.connection import Connection

MAX_REASON = 500
"""Characters of the reason that a child reports."""

BEAT = 1.0
"""Seconds between two signs of life, and between two looks of the supervisor."""


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
            # A supervisor that is stopped reads nothing.
            os.set_blocking(self._pipe.fileno(), False)
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

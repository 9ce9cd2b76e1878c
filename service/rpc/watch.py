"""Notices commits to the view, in a thread.

Waking an event loop for each look would cost five times as much.
"""

import asyncio
import time
from pathlib import Path
from threading import Event, Thread

import apsw
import structlog

from service.view.reader import Reader

POLL = 0.005
QUIET_POLL = 0.02
QUIET = 1.0
"""Seconds between two looks: in busy times, and after nothing has come for a while."""

_log = structlog.get_logger()


class Watch:
    """Tells an event loop of commits, as long as somebody wants to know.

    Attributes:
        news: set after each commit; whoever reads it clears it first.
    """

    def __init__(self, path: Path) -> None:
        self.news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._path = path
        self._wanted = Event()
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def want(self, wanted: bool) -> None:
        """Say whether anybody wants to know; `news` is set soon after somebody does."""
        if wanted:
            self._wanted.set()
        else:
            self._wanted.clear()

    def close(self) -> None:
        """Stop watching."""
        self._stopped.set()
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        reader = Reader(self._path)
        while not self._stopped.is_set():
            self._wanted.wait()
            try:
                self._watch(reader)
            except apsw.Error as error:
                _log.warning("view_not_readable", error=type(error).__name__)
                self._stopped.wait(QUIET)
        reader.close()

    def _watch(self, reader: Reader) -> None:
        seen, active = 0, time.monotonic()
        while self._wanted.is_set() and not self._stopped.is_set():
            version = reader.data_version()
            now = time.monotonic()
            if version != seen:
                seen, active = version, now
                self._loop.call_soon_threadsafe(self.news.set)
            time.sleep(QUIET_POLL if now > active + QUIET else POLL)

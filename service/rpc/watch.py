"""Notices commits to the view, in a thread: waking an event loop for each look would cost more."""

import asyncio
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import structlog

from service.view.errors import ViewError
from service.view.reader import Reader
from storage.watch import WalWatch

LOOK = 0.25
"""Seconds between two looks, at most."""

RETRY = 1.0
"""Seconds to wait after a look that failed."""

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
        self._commits = WalWatch(path)
        self._wanted = Event()
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def want(self, wanted: bool) -> None:
        """Say whether anybody wants to know; `news` is set after each commit from then on."""
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
        while not self._stopped.is_set():
            try:
                with closing(Reader(self._path)) as reader:
                    while not self._stopped.is_set():
                        self._wanted.wait()
                        self._watch(reader)
            except ViewError as error:
                _log.warning("view_not_readable", error=type(error).__name__)
                self._stopped.wait(RETRY)
        self._commits.close()

    def _watch(self, reader: Reader) -> None:
        seen = 0
        while self._wanted.is_set() and not self._stopped.is_set():
            version = reader.data_version()
            if version != seen:
                seen = version
                self._loop.call_soon_threadsafe(self.news.set)
            self._commits.sleep(LOOK)

"""Notices commits to the view in a thread, as the event loop must not block."""

import asyncio
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

from service.rpc.errors import log_error
from service.view.errors import ViewError
from service.view.reader import Reader
from storage.watch import WalWatch

MAX_WAIT = 0.25
"""Seconds between two looks, at most."""

RETRY = 1.0
"""Seconds before the next look after an error."""


class CommitWatch:
    """A watch for commits to a view, while it is enabled.

    Attributes:
        committed: set after each commit; its reader clears it.
    """

    def __init__(self, path: Path) -> None:
        self.committed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._path = path
        self._wal = WalWatch(path)
        self._enabled = Event()
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def enable(self, enabled: bool) -> None:
        """Start or pause; `committed` is set once at the start."""
        if enabled:
            self._enabled.set()
        else:
            self._enabled.clear()

    def close(self) -> None:
        self._stopped.set()
        self._enabled.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with closing(Reader(self._path)) as reader:
                    self._watch(reader)
            except ViewError as error:
                log_error("warning", "view_not_readable", "watch", error)
                self._stopped.wait(RETRY)
        self._wal.close()

    def _watch(self, reader: Reader) -> None:
        while not self._stopped.is_set():
            self._enabled.wait()
            seen = 0
            while self._enabled.is_set() and not self._stopped.is_set():
                version = reader.data_version()
                if version != seen:
                    seen = version
                    self._loop.call_soon_threadsafe(self.committed.set)
                self._wal.sleep(MAX_WAIT)

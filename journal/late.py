"""A journal that is opened in the background as soon as possible. Its users need not wait."""

import threading
from collections.abc import Callable

from journal.entry import Appended, NewEntry
from journal.errors import JournalError, Unavailable
from journal.port import JournalWriter, Waiter

RETRY = 0.2
"""Seconds between two attempts to open it."""


class LateWriter:
    """`journal.port.JournalWriter` that is `Unavailable` until the journal can be opened.

    Attributes:
        failure: the error after which it is not tried again.
        opened: the journal, once it is open.
    """

    def __init__(
        self,
        open_: Callable[[], JournalWriter],
        *,
        on_open: Callable[[], None],
        on_failure: Callable[[], None],
        on_wait: Callable[[str], None],
    ) -> None:
        """Open the journal at once if that is possible, otherwise in a thread.

        Args:
            open_: opens it. Tried again after `Unavailable`.
            on_open: called once, when it is open.
            on_failure: called once, after any other error of a later attempt.
            on_wait: called with the reason after each attempt that fails.

        Raises:
            JournalError: the first attempt failed for good.
        """
        self.failure: JournalError | None = None
        self._open = open_
        self._on_open = on_open
        self._on_failure = on_failure
        self._on_wait = on_wait
        self.opened: JournalWriter | None = None
        self._reason = ""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal-open", daemon=True)
        if not self._attempt():
            self._thread.start()

    @property
    def id(self) -> str:
        return self._usable().id

    def append(
        self, entry: NewEntry, *, timeout: float, event: Callable[[], Waiter] = threading.Event
    ) -> Appended:
        return self._usable().append(entry, timeout=timeout, event=event)

    def trouble(self) -> str:
        return self.opened.trouble() if self.opened else self._reason

    def close(self) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        if self.opened:
            self.opened.close()

    def _usable(self) -> JournalWriter:
        if self.opened is None:
            raise Unavailable(self._reason)
        return self.opened

    def _run(self) -> None:
        try:
            while not self._closed.wait(RETRY) and not self._attempt():
                pass
        except JournalError as error:
            self.failure = error
            self._reason = str(error)
            self._on_failure()

    def _attempt(self) -> bool:
        try:
            self.opened = self._open()
        except Unavailable as reason:
            self._reason = f"the journal cannot be opened: {reason}"
            self._on_wait(str(reason))
            return False
        self._on_open()
        return True

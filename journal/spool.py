"""A local spool before a remote journal: callbacks are kept while the remote cannot be reached.

An entry that the remote does not confirm in time is made durable on the local disk, and forwarded
when the remote is back. Entries of one session are forwarded in order, and no later one overtakes
them.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import monotonic

import structlog

from journal.entry import Appended, Entry, NewEntry, unnumbered, validate
from journal.errors import Closed, Incomplete, JournalError, TooLarge, Unavailable
from journal.jetstream_message import subject_of
from journal.port import JournalWriter, Waiter
from journal.spool_files import NOWHERE, Place, SpoolFiles
from metrics.definitions import SPOOL_ENTRIES, SPOOL_OLDEST, SPOOL_REFUSED

KEEP_WITHIN = 0.4
"""Seconds of an append's timeout that are left for the local disk."""

TURN_WITHIN = 0.3
"""Seconds that an append waits for the last entries of its session to be forwarded."""

FEW = 500
"""Entries in the spool that can be forwarded in that time."""

FORWARD_WITHIN = 2.0
"""Seconds that the remote has for an entry that is forwarded."""

LANES = 32
"""Entries that are forwarded at once, each of another session."""

PAGE = 1000
"""Entries that are read from the spool at once."""

TICK = 0.5
"""Seconds between two looks at the remote and at the local disk."""

PROGRESS_EVERY = 60.0
"""Seconds between two lines of progress in the log."""

log = structlog.get_logger()


class SpooledWriter:
    """`journal.port.JournalWriter` that keeps what the remote one does not confirm.

    The revision of an entry that it keeps is 0: the remote journal gives it one later.
    """

    def __init__(
        self,
        open_remote: Callable[[str], JournalWriter],
        folder: Path,
        *,
        max_bytes: int,
        tick: float = TICK,
    ) -> None:
        """Open the spool, and the remote journal if that is possible now.

        A spool that cannot be opened now is opened later: the remote journal is enough.

        Args:
            open_remote: opens it, given its id, "" if not known. Tried again after an error.
            folder: of the spool.
            max_bytes: bytes after which the spool takes no more.
            tick: seconds between two attempts to forward.

        Raises:
            InUse: another process has the spool.
            Unavailable: the remote journal cannot be opened, and it is not known: it was never
                open, or the spool cannot be read.
            Unreadable: the remote journal cannot be used, or the spool has entries of another one.
        """
        self._open_remote = open_remote
        self._max_bytes = max_bytes
        self._tick = tick
        self._files = SpoolFiles(folder)
        self._full = ""
        self._remote: JournalWriter | None = None
        self._reason = ""
        self._lock = threading.Lock()
        self._at_start = self._latest = NOWHERE  # the place of the last entry
        self._last: dict[str, Place] = {}  # the same by subject, since the start
        self._turns: list[Waiter] = []  # of appends that wait for the spool to be empty
        self._done: set[bytes] = set()  # ids of entries beyond the forwarded position
        self._page = 1
        self._since: float | None = None
        self._forwarded = 0
        self._reported = monotonic()
        self._work = threading.Event()
        self._closed = threading.Event()
        try:
            try:
                self._open_files()
            except Unavailable as error:
                self._cannot_spool(error)
            self._connect_if_known()
        except BaseException:
            self._files.close()
            raise
        self._pool = ThreadPoolExecutor(LANES, "spool")
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()
        SPOOL_ENTRIES.read_number(self._files.entries)
        SPOOL_OLDEST.read_number(self._oldest_seconds)

    @property
    def id(self) -> str:
        return self._files.journal_id

    def append(
        self, entry: NewEntry, *, timeout: float, event: Callable[[], Waiter] = threading.Event
    ) -> Appended:
        end = monotonic() + timeout
        remote = self._remote
        if remote and not remote.trouble() and self._has_turn(entry, event):
            left = end - monotonic()
            within = max(left - KEEP_WITHIN, left / 2)
            try:
                return remote.append(entry, timeout=within, event=event)
            except TooLarge:
                raise
            except Unavailable as error:
                self._reason = str(error)
        return self._keep(entry, end - monotonic(), event)

    def trouble(self) -> str:
        if self._closed.is_set():
            return "the journal is closed"
        if not (self._away() or self._files.entries()):
            return ""
        return self._full or self._files.trouble()

    def notice(self) -> str:
        """Return a line about the spool while it is in use or cannot be, otherwise ""."""
        if self._since is None and not self._away():
            return self._full
        reason = self._away() or "they are forwarded"
        return f"spooling, {self._files.entries()} callbacks wait: {reason}"

    def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        self._work.set()
        self._thread.join()
        self._pool.shutdown()
        if self._remote:
            self._remote.close()
        if entries := self._files.entries():
            log.warning("spool_left", entries=entries)
        self._files.close()

    def _away(self) -> str:
        """Return the reason for which the remote journal takes nothing, or ""."""
        return self._remote.trouble() if self._remote else self._reason

    def _must_wait(self, entry: NewEntry) -> bool:
        """Return True if entries of the same session are in the spool."""
        forwarded = self._files.forwarded()
        if self._latest <= forwarded:
            return False
        return self._last.get(subject_of("", entry), self._at_start) > forwarded

    def _has_turn(self, entry: NewEntry, event: Callable[[], Waiter]) -> bool:
        """Return True if no entries of the same session are in the spool.

        Waits if there are few: otherwise a busy session would always find its last one there.
        """
        end = monotonic() + TURN_WITHIN
        while True:
            with self._lock:
                if not self._must_wait(entry):
                    return True
                left = end - monotonic()
                if left <= 0 or self._files.entries() > FEW:
                    return False
                turn = event()
                self._turns.append(turn)
            turn.wait(left)

    def _give_turns(self) -> None:
        with self._lock:
            turns, self._turns = self._turns, []
        for turn in turns:
            turn.set()

    def _keep(self, entry: NewEntry, timeout: float, event: Callable[[], Waiter]) -> Appended:
        validate(entry)
        if self._closed.is_set():
            raise Closed("the journal is closed")
        if self._full:
            raise Unavailable(self._full)
        place, is_duplicate = self._files.append(entry, timeout=timeout, event=event)
        subject = subject_of("", entry)
        with self._lock:
            self._latest = max(self._latest, place)
            self._last[subject] = max(self._last.get(subject, place), place)
        self._begin(self._away() or self._reason)
        self._work.set()
        return Appended(0, is_duplicate)

    def _begin(self, reason: str) -> None:
        with self._lock:
            if self._since is not None:
                return
            self._since = self._reported = monotonic()
            self._forwarded = 0
        log.warning("spooling_begun", reason=reason)

    def _oldest_seconds(self) -> float:
        oldest = self._files.oldest()
        return max(0.0, time.time() - oldest.received_at / 1000) if oldest else 0.0

    # ---- In the forwarding thread ----

    def _run(self) -> None:
        while not self._closed.is_set():
            self._work.clear()
            try:
                is_done = self._step()
            except Exception as error:  # whatever it is, the thread must go on
                self._note(error)
                is_done = False
            if is_done:
                self._work.wait(self._tick)
            else:
                self._closed.wait(self._tick)

    def _step(self) -> bool:
        """Forward what the spool holds; return True if it is empty."""
        self._look_after_files()
        remote = self._remote or self._connect()
        while entries := self._files.pending(self._page):
            if self._closed.is_set() or not self._forward(remote, entries):
                return False
            self._look_after_files()
        self._end()
        return True

    def _look_after_files(self) -> None:
        try:
            self._open_files()
            self._files.tidy()
            self._full = self._files.shortage(self._max_bytes)
        except JournalError as error:  # as of a full disk, which only forwarding may empty
            self._cannot_spool(error)
        self._report()

    def _open_files(self) -> None:
        """Open the spool, unless it is open."""
        if not self._files.open():
            return
        with self._lock:
            self._at_start = self._latest = self._files.head()
            self._last.clear()
        if self._files.entries():
            self._begin("entries of an earlier time")

    def _cannot_spool(self, error: JournalError) -> None:
        self._full = f"the spool cannot be used: {type(error).__name__}"  # for all to see
        log.error("spool_not_usable", reason=str(error), throttle=str(error))

    def _connect_if_known(self) -> None:
        try:
            self._connect()
        except Unavailable as error:
            if isinstance(error, Incomplete):
                self._files.bind(error.journal_id)
            if not self.id:
                raise Unavailable("; ".join(filter(None, (str(error), self._full)))) from error
            self._reason = str(error)

    def _connect(self) -> JournalWriter:
        remote = self._open_remote(self.id)
        try:
            self._files.bind(remote.id)
        except BaseException:
            remote.close()
            raise
        self._remote = remote
        return remote

    def _forward(self, remote: JournalWriter, entries: Sequence[Entry]) -> bool:
        """Forward the oldest entries; return False if one of them was not taken."""
        lanes: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            if entry.id not in self._done:
                lanes[subject_of("", entry)].append(entry)
        for taken in self._pool.map(partial(self._send, remote), lanes.values()):
            self._done |= taken
        position = 0
        for entry in entries:
            if entry.id not in self._done:
                break
            self._done.remove(entry.id)
            position = entry.revision
            self._forwarded += 1
        if position:
            self._files.advance(position)
            self._give_turns()
        is_complete = position == entries[-1].revision
        self._page = PAGE if is_complete else 1
        return is_complete

    def _send(self, remote: JournalWriter, entries: Sequence[Entry]) -> set[bytes]:
        """Forward entries one after the other; return the ids of those that are done."""
        done: set[bytes] = set()
        for entry in entries:
            if self._closed.is_set() or not self._send_one(remote, unnumbered(entry)):
                break
            done.add(entry.id)
        return done

    def _send_one(self, remote: JournalWriter, entry: NewEntry) -> bool:
        try:
            remote.append(entry, timeout=FORWARD_WITHIN)
        except (TooLarge, ValueError) as error:
            self._files.set_aside(entry)
            SPOOL_REFUSED.values[()] += 1
            reason = f"{type(error).__name__}: {error}"
            log.error("spool_entry_refused", id=entry.id.hex(), reason=reason)  # noqa: TRY400
        except Unavailable as error:
            self._note(error)
            return False
        return True

    def _note(self, error: Exception) -> None:
        if not isinstance(error, JournalError):
            log.error("spool_failed", exc_info=error, throttle=type(error))
        elif self._reason != str(error):
            log.warning("spool_not_forwarded", reason=str(error), throttle=str(error))
        self._reason = str(error)

    def _report(self) -> None:
        if self._since is None or monotonic() - self._reported < PROGRESS_EVERY:
            return
        self._reported = monotonic()
        log.warning(
            "spooling",
            entries=self._files.entries(),
            oldest_seconds=round(self._oldest_seconds()),
            forwarded=self._forwarded,
            reason=self._away(),
        )

    def _end(self) -> None:
        with self._lock:
            if self._since is None or self._files.entries():
                return
            seconds = round(monotonic() - self._since, 1)
            self._since = None
        log.info("spooling_ended", forwarded=self._forwarded, seconds=seconds)

"""Erasure: deletes in the journal what the view has forgotten, in a thread beside the follower.

The view lists the entries, so that the work goes on after a crash, and the follower takes from the
list what is done. Other files with the same texts are deleted first: views of other versions,
unfinished copies. The process that publishes snapshots deletes the older snapshots.
"""

import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from threading import Event, Thread

import structlog

from journal.backup import delete_abandoned
from journal.errors import JournalError
from journal.port import Eraser
from service.positions import MAX_REVISION
from service.view import store
from service.view.errors import ViewError, ViewUnavailable
from service.view.locks import discard
from service.view.reader import Reader

MAX_PASS = 200_000
"""Entries after which a pass ends, with the FORGET entry that lists the last: it sweeps once."""

STEP = 500
"""Entries between two looks at the request to stop."""

PAUSE = 0.5
"""Seconds between two looks for entries to delete."""

RETRY = 10.0
"""Seconds before another attempt after a failure."""

IN_VIEW = "the view's files are not clear yet; a reader may keep its WAL"

PARTIALS = ("journal", "snapshot")
"""Beginnings of the names of unfinished copies."""

log = structlog.get_logger()


class Erasure:
    """The deletion of forgotten entries from one journal."""

    def __init__(
        self,
        open_eraser: Callable[[], Eraser],
        data_dir: Path,
        note_deleted: Callable[[int], Event],
        *,
        pause: float = PAUSE,
        retry: float = RETRY,
    ) -> None:
        """Prepare the work.

        Args:
            open_eraser: opens the journal.
            data_dir: directory of the view.
            note_deleted: asks the follower to take off the list what FORGET entries up to a
                revision have put there; the event is set when that is done.
            pause: seconds between two looks for entries to delete.
            retry: seconds before another attempt after a failure.
        """
        self._open = open_eraser
        self._data_dir = data_dir
        self._pause = pause
        self._retry = retry
        self._note_deleted = note_deleted
        self._stop = Event()

    def start(self, stop: Event) -> None:
        """Work from now on, in a thread, until `stop` is set."""
        self._stop = stop
        Thread(target=self._run, name="erasure", daemon=True).start()

    def step(self) -> int:
        """Make a pass: delete the next entries that the view lists; return their number.

        Raises:
            JournalError, ViewError, OSError: some are left.
        """
        with suppress(ViewUnavailable), closing(Reader(store.locate(self._data_dir))) as reader:
            with reader.snapshot() as progress:
                until = reader.listed_until(progress.applied_revision, MAX_PASS)
            if until:
                return self._delete(reader, progress.journal_id, until)
        return 0  # or the view is not there yet

    def _delete(self, reader: Reader, journal_id: str, until: int) -> int:
        """Delete what FORGET entries up to a revision list."""
        began, count = time.monotonic(), 0
        self._delete_other_files()
        with closing(self._open()) as eraser:
            if eraser.id != journal_id:  # a restored one, and the view is not renewed yet
                return 0
            before = MAX_REVISION
            while revisions := reader.entries_to_delete(STEP, before=before, until=until):
                if self._stop.is_set():
                    return 0
                eraser.delete(revisions)
                count += len(revisions)
                before = revisions[-1]
            eraser.sweep()
        noted = self._note_deleted(until)
        while not noted.wait(self._retry):
            if self._stop.is_set():
                return 0
            log.warning("entries_not_deleted", reason=IN_VIEW, throttle=IN_VIEW)
        log.info("entries_deleted", entries=count, after_s=round(time.monotonic() - began, 1))
        return count

    def _run(self) -> None:
        pause = self._pause
        while not self._stop.wait(pause):
            pause = self._pause
            try:
                self.step()
            except (JournalError, ViewError, OSError) as problem:
                log.warning("entries_not_deleted", reason=str(problem), throttle=str(problem))
                pause = self._retry
            except Exception:  # the next attempt may succeed
                log.exception("erasure_failed", throttle="")
                pause = self._retry

    def _delete_other_files(self) -> None:
        """Delete the files that nobody uses. A view in use forgets by itself."""
        for path in store.others(self._data_dir):
            log.info("view_of_other_version", view=path.name, done=discard(path))
        for path in store.partials(store.locate(self._data_dir)):
            path.unlink(missing_ok=True)
        for name in PARTIALS:
            delete_abandoned(self._data_dir, name)

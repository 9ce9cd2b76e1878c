"""The follower process: folds the journal into the view; runs erasure, scrub and retention."""

import datetime
import threading
from contextlib import closing
from functools import partial

import structlog

from command.engines import (
    append_forget_entry,
    open_eraser,
    open_object_store,
    open_reader,
    open_snapshots,
)
from command.notifier import Notifier
from command.processes.child import report_ready
from command.processes.liveness import run_in_thread
from command.processes.opening import open_with_retries
from command.settings import Settings
from command.signals import on_stop_request
from journal.errors import Damaged, Unavailable
from journal.port import JournalReader
from metrics import definitions
from metrics.report import RetentionReport, discard
from service.erasure import Erasure
from service.follower import Follower
from service.retention import Retention
from service.scrub import Scrub
from service.snapshots.loader import load
from service.view.errors import ViewError, ViewUnavailable
from service.view.locks import is_being_built

METRICS = (definitions.FOLLOWER,)

log = structlog.get_logger()


def run(notifier: Notifier, settings: Settings) -> None:
    stop = threading.Event()
    on_stop_request(stop.set)
    with closing(open_with_retries(lambda: _open_journal(settings), stop, notifier)) as journal:
        if settings.is_on_nats:
            _load_snapshot(journal, settings, stop, notifier)
        follower = open_with_retries(lambda: _make_follower(journal, settings), stop, notifier)
        data_dir = settings.data_dir
        Erasure(lambda: open_eraser(settings), data_dir, follower.note_deleted).start(stop)
        if settings.scrub_rate:
            Scrub(journal, data_dir, rate=settings.scrub_rate).start(stop)
        _start_retention(settings, stop)
        report_ready(notifier)
        follower.run(stop, notifier.alive)


def _open_journal(settings: Settings) -> JournalReader:
    """Open the journal. A damaged one counts as unavailable: an operator may repair it."""
    try:
        return open_reader(settings)
    except Damaged as error:
        raise Unavailable(str(error)) from error


def _load_snapshot(
    journal: JournalReader, settings: Settings, stop: threading.Event, notifier: Notifier
) -> None:
    """Put a snapshot of the view in place, if there is one and no view."""
    open_with_retries(lambda: _refuse_during_build(settings), stop, notifier)
    try:
        with closing(open_snapshots(settings, journal, settings.data_dir)) as snapshots:
            run_in_thread(notifier, lambda: load(snapshots, stop))
    except Unavailable as problem:
        log.warning("snapshots_not_found", reason=str(problem))


def _make_follower(journal: JournalReader, settings: Settings) -> Follower:
    """Open the view for writing. An error of the disk, or a build, counts as temporary."""
    _refuse_during_build(settings)
    try:
        # A file that was restored has a new id. A stream that was replaced is a mistake.
        return Follower(journal, settings.data_dir, may_start_over=not settings.is_on_nats)
    except ViewUnavailable:
        raise
    except (ViewError, OSError) as error:
        raise Unavailable(f"the view cannot be opened: {error}") from error


def _refuse_during_build(settings: Settings) -> None:
    if is_being_built(settings.data_dir):
        raise Unavailable("desk view build is making the view")


def _start_retention(settings: Settings, stop: threading.Event) -> None:
    """Start the thread that forgets what is older than DESK_RETENTION, if that is set."""
    if settings.retention is None:
        discard(settings.data_dir, RetentionReport)
        return
    Retention(
        settings.data_dir,
        partial(append_forget_entry, settings),
        open_object_store(settings).claim if settings.is_on_nats else lambda _: True,
        keep=settings.retention,
        at=datetime.time.fromisoformat(settings.retention_at),
    ).start(stop)

"""Loading a snapshot: download, check, and put in place as this replica's view."""

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import BinaryIO, cast

import apsw
import structlog
import zstandard

from journal.backup import require_room
from journal.errors import Closed, Unavailable, Unreadable
from journal.jetstream_objects import ObjectStore
from service.snapshots.checks import check_journal, check_label, check_view, head_from
from service.snapshots.stored import FAILURES, Snapshot, Snapshots
from service.view import store
from service.view.errors import sqlite_errors
from service.view.locks import lock
from storage.files import sync

RETRY = 2.0
"""Seconds before another attempt, if NATS does not answer: a leader may be elected."""

ATTEMPTS = 5
"""Attempts to load a snapshot, the same one or others, before the replica replays."""

PART = 1024 * 1024
"""Bytes that are decompressed at once."""

NOT_CAUGHT_UP = "UPDATE progress SET complete = 0, head_revision = ?"

log = structlog.get_logger()


def load(snapshots: Snapshots, stop: Event) -> None:
    """Put the newest usable snapshot in place, unless there is a view already.

    The view in place counts as not caught up. Without a usable snapshot it stays missing.

    Raises:
        InUse: another follower keeps the view.
    """
    if snapshots.view.exists():
        return
    held = lock(snapshots.view)
    try:
        _load_locked(snapshots, stop)
    finally:
        held.release()


def _load_locked(snapshots: Snapshots, stop: Event) -> None:
    unusable: set[str] = set()
    for attempt in range(ATTEMPTS):
        try:
            candidates = [
                each for each in snapshots.of_this_version() if each.stored.nuid not in unusable
            ]
        except FAILURES as problem:
            log.warning("snapshots_not_found", reason=str(problem))
            if attempt:  # NATS was there before
                continue
            return
        if not candidates:
            break
        if _try_to_load(snapshots, candidates[0], unusable, stop) or stop.is_set():
            return
    log.info("no_snapshot", fingerprint=store.fingerprint(), found=len(unusable))


def _try_to_load(snapshots: Snapshots, snapshot: Snapshot, unusable: set[str], stop: Event) -> bool:
    """Put a snapshot in place; return False if that fails. NATS may be back when asked again.

    A snapshot that is deleted meanwhile is unusable; the list has the one that replaced it.
    """
    try:
        _put_in_place(snapshots, snapshot, stop)
    except FAILURES as problem:
        if not stop.is_set():
            name = snapshot.stored.name
            log.warning("snapshot_not_usable", name=name, reason=str(problem))
        if isinstance(problem, Unavailable):
            stop.wait(RETRY)
        else:
            unusable.add(snapshot.stored.nuid)
        return False
    return True


def _put_in_place(snapshots: Snapshots, snapshot: Snapshot, stop: Event) -> None:
    began, view = time.monotonic(), snapshots.view
    head = head_from(snapshots.journal, snapshot.revision)
    with _partial(view, snapshot.size) as copy:
        _receive(snapshots.objects, snapshot, copy, stop)
        progress = check_view(copy)
        check_label(snapshot, progress)
        check_journal(progress, snapshots.journal)
        with sqlite_errors(), closing(apsw.Connection(str(copy))) as db:
            db.execute(NOT_CAUGHT_UP, (head,))
        sync(copy)
        for suffix in ("-wal", "-shm"):  # of a view that was deleted
            Path(f"{view}{suffix}").unlink(missing_ok=True)
        os.replace(copy, view)
        sync(view.parent)
    seconds = round(time.monotonic() - began, 1)
    log.info("snapshot_loaded", revision=snapshot.revision, head=head, after_s=seconds)


def _receive(objects: ObjectStore, snapshot: Snapshot, copy: Path, stop: Event) -> None:
    """Download and decompress a snapshot."""
    require_room(copy.parent, snapshot.size)
    source = objects.open(snapshot.stored)
    left = snapshot.size
    with copy.open("wb") as file:
        unpacker = zstandard.ZstdDecompressor()
        for part in unpacker.read_to_iter(cast(BinaryIO, source), write_size=PART):
            if stop.is_set():
                raise Closed("stopped")
            left -= len(part)
            if left < 0:
                break
            file.write(part)
    if left:
        raise Unreadable("it has another size than its label")
    source.check()


@contextmanager
def _partial(view: Path, size: int) -> Iterator[Path]:
    """Give an empty file for a view of `size` bytes; delete it in the end, and older ones.

    The caller has the view's lock.
    """
    for abandoned in store.partials(view):
        abandoned.unlink()
    path = store.partial(view, size)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)

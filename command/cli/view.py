"""`desk view`: build the view of this version beside the one that is served, delete old ones."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from threading import Event

import click

from command.cli import Group, fail
from command.cli.offline import (
    become_owner,
    errors_in_one_line,
    nats_settings,
    progress_bar,
    time_of,
)
from command.endpoints import data_directory
from command.engines import JOURNAL_FILE, open_file, open_snapshots, open_stream
from command.settings import NatsSettings, Settings
from display.texts import format_size
from journal.backup import require_room
from journal.damage import ReportProgress
from journal.errors import InUse
from journal.port import JournalReader
from service.follower import Follower
from service.snapshots.loader import load
from service.snapshots.publisher import Publisher
from service.snapshots.stored import Snapshots
from service.view import store
from service.view.errors import ViewError
from service.view.locks import building, discard, lock
from service.view.progress import Progress
from service.view.reader import Reader

POLL = 0.2
"""Seconds between two looks at the progress."""

GROWTH = 3
"""Bytes of a view for each of the journal, about, while there is no view to compare with."""


@click.group(cls=Group)
def view() -> None:
    """Build the view of this version before an upgrade; delete views that are no longer needed."""


@view.command()
def build() -> None:
    """Build this version's view in DESK_DATA_DIR from the journal, and end when it is complete.

    Another version may serve meanwhile: its view is another file. After that a restart with this
    version is ready within seconds. An interrupted build goes on where it was. With the journal on
    NATS it begins with a snapshot, if there is one.
    """
    began = time.monotonic()
    with _data_directory() as (directory, nats):
        name = store.locate(directory).name
        if _is_served(directory):
            click.echo(f"{name} is being served: there is nothing to build")
            return
        with (
            building(directory),
            closing(_open_journal(directory, nats)) as journal,
            progress_bar() as report,
        ):
            follower = Follower(journal, directory, may_start_over=not nats)
            progress = _build(follower, directory, report)
    if progress.problem:
        fail(f"the view ends at revision {progress.applied_revision}: {progress.problem}")
    seconds = time.monotonic() - began
    click.echo(f"built {name} up to revision {progress.applied_revision} in {seconds:.0f} s")


@view.command()
def drop() -> None:
    """Delete the views of other versions now, but for those in use.

    Without this they are deleted a day after their last use, so that a rollback finds them.
    """
    with _data_directory() as (directory, _):
        for other in store.others(directory):
            click.echo(f"{other.name}: {'deleted' if discard(other) else 'in use'}")


@view.command()
def snapshot() -> None:
    """Publish a snapshot of this version's view now, from which new replicas start.

    For a journal on NATS. A running service publishes one by itself every DESK_SNAPSHOT_HOURS.
    """
    with _open_snapshots() as snapshots, progress_bar() as report:
        made = Publisher(snapshots).publish(report)
    size = format_size(made.stored.size)
    click.echo(f"published {made.stored.name}: revision {made.revision}, {size}")


@view.command()
def snapshots() -> None:
    """List the snapshots of all versions' views, newest first."""
    with _open_snapshots() as found:
        for each in found.newest_first():
            stored, own = each.stored, each.fingerprint == store.fingerprint()
            at, size = time_of(int(1000 * each.stored_at)), format_size(stored.size)
            version = "this version" if own else "another version"
            click.echo(f"{stored.name}: revision {each.revision}, {at}, {size}, of {version}")


@contextmanager
def _open_snapshots() -> Iterator[Snapshots]:
    with errors_in_one_line():
        settings = Settings.load()
        if not settings.is_on_nats:
            fail("DESK_JOURNAL is a file: snapshots are for a journal on NATS")
        become_owner(settings.data_dir)
        with (
            closing(open_stream(settings)) as journal,
            closing(open_snapshots(settings, journal, settings.data_dir)) as snapshots,
        ):
            yield snapshots


@contextmanager
def _data_directory() -> Iterator[tuple[Path, NatsSettings | None]]:
    """Give DESK_DATA_DIR, and the settings of NATS; act as the directory's owner from here on."""
    with errors_in_one_line():
        nats, directory = nats_settings(), data_directory()
        if not nats:
            (directory / JOURNAL_FILE).stat()  # which fails where there is none
        become_owner(directory)
        yield directory, nats


def _open_journal(directory: Path, nats: NatsSettings | None) -> JournalReader:
    """Open the journal for a build, and load a snapshot of the view if there is one.

    Raises:
        NoRoom: the disk has no room for the view.
    """
    if not nats:
        _require_room(directory, (directory / JOURNAL_FILE).stat().st_size)
        return open_file(directory)
    stream = open_stream(nats)
    _require_room(directory, stream.bytes)
    with closing(open_snapshots(nats, stream, directory)) as snapshots:
        load(snapshots, Event())
    return stream


def _is_served(directory: Path) -> bool:
    """Return True if a follower keeps this version's view up to date."""
    path = store.locate(directory)
    try:
        lock(path).release()
    except InUse:
        with suppress(ViewError), closing(Reader(path)) as reader:
            return reader.progress().complete
    return False


def _build(follower: Follower, directory: Path, report: ReportProgress) -> Progress:
    """Follow the journal until the view is complete, or cannot be built further."""
    stop = Event()
    with ThreadPoolExecutor(1) as threads, ExitStack() as ending:
        ending.callback(stop.set)  # before the executor waits for its thread
        work = threads.submit(follower.run, stop)
        while not (progress := _progress(directory, report)).complete and not progress.problem:
            _raise_error(work)
            time.sleep(POLL)
    return progress


def _raise_error(work: "Future[None]") -> None:
    if work.done():
        work.result()
        fail("the view was not built: see the log above")


def _progress(directory: Path, report: ReportProgress) -> Progress:
    with suppress(ViewError), closing(Reader(store.locate(directory))) as reader:
        progress = reader.progress()
        report("building the view", progress.applied_revision, progress.head_revision)
        return progress
    return Progress("", "")


def _require_room(directory: Path, journal_size: int) -> None:
    """Raise NoRoom if the view would fill the disk."""
    views = [file.stat().st_size for file in store.others(directory)]
    there = store.locate(directory)
    done = there.stat().st_size if there.exists() else 0
    size = max(views, default=0) or GROWTH * journal_size
    require_room(directory, size - done)

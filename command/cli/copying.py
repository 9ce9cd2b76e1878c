"""`desk journal copy`: from a file to NATS, and back."""

import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click

from command.cli import fail
from command.cli.offline import become_owner, errors_in_one_line, list_damages, progress_bar
from command.engines import COPYING_FILE, JOURNAL_FILE, open_file, open_stream, open_stream_target
from command.settings import NatsSettings
from command.settings_journal import SCHEME
from display.texts import count_of
from journal.backup import put_in_place
from journal.copying import Compared, Source, check_target, compare, copy_entries
from journal.errors import OtherEntries
from journal.sqlite_copy import FileTarget
from storage.lock import FileLock

FILE = "sqlite:"

USAGE = "one must be sqlite:DIR, the other nats://host:port"


@click.command()
@click.argument("source")
@click.argument("target")
def copy(source: str, target: str) -> None:
    """Copy the journal from SOURCE to TARGET: one is sqlite:DIR, the other nats://host:port.

    Revisions and the journal's id stay, so views stay valid and clients resume. How to sign in to
    NATS, the stream and its size are settings, DESK_NATS_…. An interrupted copy goes on where it
    was; in the end all entries of both sides are compared. A gateway may write SOURCE meanwhile:
    then run this once more when it has stopped. Exit code 1 until TARGET is whole; no process uses
    it before.
    """
    with errors_in_one_line():
        if source.startswith(FILE) and target.startswith(SCHEME):
            compared, missing = _to_stream(_file(source), NatsSettings.load(target))
        elif source.startswith(SCHEME) and target.startswith(FILE):
            compared, missing = _to_file(NatsSettings.load(source), _file(target))
        else:
            raise click.UsageError(USAGE)
    left_out = f", without {count_of(compared.repetitions, 'repetition')}"
    click.echo(
        f"{target} has {count_of(compared.entries, 'entry')} up to revision "
        f"{compared.head}{left_out if compared.repetitions else ''}; "
        f"digest {compared.digest}, as in {source}",
        err=True,
    )
    if missing:
        fail(missing)
    list_damages(compared.damages)
    sys.exit(bool(compared.damages))


def _file(place: str) -> Path:
    directory = place.removeprefix(FILE)
    if not directory:
        raise click.UsageError(USAGE)
    return Path(directory).absolute() / JOURNAL_FILE


def _to_stream(path: Path, settings: NatsSettings) -> tuple[Compared, str]:
    """Copy to NATS; return the result, and the reason why the copy is not complete, or ""."""
    path.stat()  # which fails where there is none
    become_owner(path.parent)
    with (
        _lock(path) as is_stopped,
        closing(open_file(path.parent)) as source,
        closing(open_stream_target(settings, source.id, first=_first(source))) as target,
        progress_bar() as report,
    ):
        check_target(source, target)
        is_in_use = target.head() < source.head() and target.begin()
        try:
            copy_entries(source, target, report)
            compared = compare(source, target, report)
        except OtherEntries as error:
            if not is_in_use:
                raise
            target.finish()
            why = "a gateway writes the stream, which stays in use"
            raise OtherEntries(f"{error}: {why}") from None
        if is_stopped:
            target.finish()
            return compared, ""
    return compared, f"a gateway writes {path}: stop it, and copy again"


def _to_file(settings: NatsSettings, path: Path) -> tuple[Compared, str]:
    """Copy to a file; return the result, and the reason why the copy is not complete, or ""."""
    become_owner(path.parent)
    partial = path.with_name(COPYING_FILE)
    with (
        _lock(path) as is_stopped,
        closing(open_stream(settings)) as source,
        progress_bar() as report,
    ):
        if not is_stopped:
            fail(f"a gateway writes {path}: stop it first")
        _set_aside(path, partial, source)
        with closing(FileTarget(partial, source.id, oldest=source.oldest())) as target:
            check_target(source, target)
            head = copy_entries(source, target, report)
            compared = compare(source, target, report)
        if source.head() > head:
            return compared, "callbacks still arrive: stop all gateways, and copy again"
        if compared.head < head:
            return compared, (
                f"revision {head} is a repetition, and a file cannot keep its number: "
                "copy again after one more callback"
            )
        put_in_place(partial, path)
    return compared, ""


def _set_aside(path: Path, partial: Path, source: Source) -> None:
    """Continue a journal that is there: it becomes the partial file."""
    if not path.exists():
        return
    if partial.exists():
        fail(f"{path} and {partial} are there: delete the one that is not to be continued")
    with closing(FileTarget(path, source.id, oldest=1)) as present:
        check_target(source, present)
    os.replace(path, partial)


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Hold the lock of the journal's writer. Yield False if a gateway holds it."""
    try:
        lock = FileLock(Path(f"{path}.lock"))
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _first(source: Source) -> int:
    """Return the revision with which a copy begins."""
    oldest = source.oldest()
    return next((entry.revision for entry in source.read(oldest - 1, limit=1)), oldest)

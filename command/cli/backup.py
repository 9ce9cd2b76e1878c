"""`desk backup` and `desk restore`: the journal as one file, and back."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TextIO

import click

from command.cli import error_text, fail
from command.cli.journal import entry_of_line
from command.cli.offline import (
    become_owner,
    delete_views,
    errors_in_one_line,
    journal_file,
    list_damages,
    nats_settings,
    progress_bar,
    stopped,
    time_of,
)
from command.endpoints import data_directory
from command.engines import JOURNAL_FILE, open_stream
from display.texts import count_of
from journal import backup as journal_backup
from journal.backup import Content
from journal.errors import JournalError
from storage.files import sync

NAME = "journal-%Y%m%dT%H%M%SZ.db"
NAMES = "journal-[0-9]*T[0-9]*Z.db"
"""The name of a backup in a directory, and the pattern of all; their order is that of time."""


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--to-stdout", is_flag=True, help="Write the backup to stdout, for a pipe.")
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    metavar="N",
    help="In a directory: delete its backups but for the N newest, if this one is whole.",
)
def backup(file: Path | None, to_stdout: bool, keep: int | None) -> None:
    """Copy the journal, in DESK_DATA_DIR or on NATS, to FILE, also while it is in use.

    The copy is verified. FILE must not exist, or be a directory: then the backup in it is named
    after the time (UTC). Only its owner may read it. It can be opened with sqlite3. Views are not
    copied: the service builds them again. Exit code 1 if the journal is damaged.
    """
    if (file is None) is not to_stdout:
        raise click.UsageError("give either FILE or --to-stdout")
    directory = file if file and file.is_dir() else None
    if keep and not directory:
        raise click.UsageError("--keep is for a directory")
    with errors_in_one_line(), _maker() as make:
        if file is not None:
            target = directory / f"{datetime.now(UTC):{NAME}}" if directory else file
            try:
                content = journal_backup.back_up(target, make)
            except FileExistsError as error:
                fail(f"{error.filename} exists already: nothing was written")
        else:
            content = _to_stdout(make)
    click.echo(f"backed up {_content(content)}", err=True)
    _exit_if_damaged(content)
    if directory and keep:
        for old in sorted(directory.glob(NAMES))[:-keep]:
            old.unlink()


@contextmanager
def _maker() -> Iterator[Callable[[Path], Content]]:
    """Give the function that copies the journal, wherever it is, to an empty file."""
    with progress_bar() as report:
        if nats := nats_settings():
            with closing(open_stream(nats)) as stream:
                yield lambda copy: journal_backup.copy_stream(stream, copy, report)
        else:
            journal = data_directory() / JOURNAL_FILE
            yield lambda copy: journal_backup.copy_verified(journal, copy, report)


def _to_stdout(make: Callable[[Path], Content]) -> Content:
    directory = data_directory()
    if not directory.is_dir():
        fail(f"DESK_DATA_DIR, in which the backup is made first, is not there: {directory}")
    with journal_backup.temporary(directory) as copy:
        content = make(copy)
        with copy.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    return content


@click.command()
@click.argument("file", type=click.File("rb"))
@click.option("--yes", is_flag=True, help="Do it although callbacks are lost by it.")
@click.option(
    "--then-forget",
    "forgotten",
    type=click.File(encoding="utf-8"),
    metavar="LIST",
    help="Forget again what was forgotten after the backup: a file that `desk journal export "
    "--forgotten` has written.",
)
def restore(file: BinaryIO, yes: bool, forgotten: TextIO | None) -> None:
    """Make the backup in FILE (- is stdin) the journal in DESK_DATA_DIR.

    Gateway and service must be stopped. Views are deleted; the service builds them again. The
    journal gets a new id: clients that resume are told to start over, because revisions after the
    backup are given out again. What was forgotten after the backup comes back without
    --then-forget.
    """
    with journal_file() as journal:
        become_owner(journal.parent)
        with (
            stopped(journal.parent),
            journal_backup.temporary(journal.parent) as copy,
        ):
            with progress_bar() as report:
                journal_backup.receive(file, _size(file), copy, report)
                journal_backup.make_another(copy, name=file.name)
                content = journal_backup.verify(copy, report, name=file.name)
            lists = map(entry_of_line, enumerate(forgotten or (), 1))
            count = journal_backup.forget_again(copy, lists)
            _confirm_losses(list(_losses(journal, copy, content)), yes=yes)
            sync(copy)
            journal_backup.put_in_place(copy, journal)
            delete_views(journal.parent)
    click.echo(f"restored {_content(content)}", err=True)
    if forgotten:
        click.echo(
            f"{count_of(count, 'FORGET entry')} of {forgotten.name} appended: the service forgets "
            "what they list when it starts",
            err=True,
        )
    _exit_if_damaged(content)


def _confirm_losses(lost: list[str], *, yes: bool) -> None:
    """Print the losses. Exit unless `yes` is given or the user confirms."""
    for text in lost:
        click.echo(f"lost: {text}", err=True)
    if yes or not lost:
        return
    if not sys.stdin.isatty():
        fail("nothing was changed; --yes restores all the same")
    click.confirm("Restore all the same?", abort=True, err=True)


def _losses(journal: Path, copy: Path, content: Content) -> Iterator[str]:
    """Compare the present journal, if there is one, with what replaces it."""
    if not journal.exists():
        return
    try:
        lost = journal_backup.loss(journal, copy)
    except JournalError as error:
        yield f"what only the present journal has is not known ({error_text(error)})"
    else:
        if lost.entries:
            yield (
                f"{count_of(lost.entries, 'callback')} of the present journal, received from "
                f"{time_of(lost.since)} on, revisions {lost.first} to {lost.last}: "
                "not in the backup"
            )
        if lost.forgotten:
            yield (
                f"{count_of(lost.forgotten, 'FORGET entry')} of the present journal: what was "
                "forgotten comes back. Export them first (`desk journal export --forgotten`), and "
                "give that list to --then-forget"
            )
    if content.damages:
        yield f"{count_of(len(content.damages), 'part')} of the backup, which is damaged"


def _size(file: BinaryIO) -> int:
    try:
        return os.fstat(file.fileno()).st_size
    except OSError:
        return 0


def _content(content: Content) -> str:
    newest = f", the last one received {time_of(content.newest)}" if content.entries else ""
    return f"{count_of(content.entries, 'entry')} up to revision {content.head}{newest}"


def _exit_if_damaged(content: Content) -> None:
    list_damages(content.damages)
    if content.damages:
        sys.exit(1)

"""Parts of the commands that work on the files in DESK_DATA_DIR, without the service."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from command.cli import error_text, fail
from command.cli.owner import user_name
from command.endpoints import data_directory, setting
from command.nats import SCHEME
from command.processes import JOURNAL_FILE
from journal.damage import Damage, Report
from journal.errors import JournalError
from service.view.errors import ViewError
from storage.lock import FileLock

MAX_LISTED = 20
"""Damages that are listed one by one."""


@contextmanager
def journal_file() -> Iterator[Path]:
    """Give the path of the journal. Errors of the journal and of files are one line."""
    try:
        if (setting("DESK_JOURNAL") or "").startswith(SCHEME):
            fail("DESK_JOURNAL is on NATS: this command is for a journal in DESK_DATA_DIR")
        yield data_directory() / JOURNAL_FILE
    except (JournalError, ViewError, OSError, ValueError) as error:
        fail(error_text(error))


@contextmanager
def progress_bar() -> Iterator[Report]:
    """Show work under way on stderr, on a terminal only."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as progress:
        task = progress.add_task("", total=None)
        yield lambda work, done, total: progress.update(
            task, description=work, completed=done, total=total or None
        )


@contextmanager
def stopped(directory: Path) -> Iterator[None]:
    """Make sure that no gateway and no follower works in a directory, nor starts meanwhile."""
    with ExitStack() as held:
        for path in (directory / f"{JOURNAL_FILE}.lock", *directory.glob("view-*.db.lock")):
            try:
                held.callback(FileLock(path).release)
            except BlockingIOError:
                fail(f"{path.with_suffix('')} is in use: stop gateway and service first")
        yield


def become_owner(directory: Path) -> None:
    """Act as the owner of a directory from here on, so that its processes can use what is made."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.stat()
    if found.st_uid == os.geteuid():
        return
    if os.geteuid() != 0:
        fail(f"{directory} belongs to {user_name(found.st_uid)}: do this as that user")
    os.setegid(found.st_gid)
    os.seteuid(found.st_uid)


def delete_views(directory: Path) -> None:
    """Delete all views, but not their lock files: another process may have one of them open."""
    for path in directory.glob("view-*.db*"):
        if path.suffix != ".lock":
            path.unlink(missing_ok=True)


def list_damages(damages: list[Damage]) -> None:
    for damage in damages[:MAX_LISTED]:
        click.echo(f"desk: {damage}", err=True)
    if damages[MAX_LISTED:]:
        click.echo(f"desk: … and {len(damages) - MAX_LISTED:,} more", err=True)


def time_of(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")

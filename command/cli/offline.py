"""Parts of the commands that work on the files in DESK_DATA_DIR, without the service."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from command.cli import error_text, fail
from command.cli.owner import user_name
from command.endpoints import data_directory, setting
from command.engines import JOURNAL_FILE
from command.settings import NatsSettings
from command.settings_errors import SettingsError
from command.settings_journal import SCHEME
from journal.damage import Damage, ReportProgress
from journal.errors import JournalError
from service.view.errors import ViewError
from storage.lock import FileLock

MAX_LISTED = 20
"""Damages that are listed one by one."""


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Exit with 1 on an error of the journal, of a view, of settings or of files."""
    try:
        with _warnings_on_stderr():
            yield
    except (JournalError, ViewError, SettingsError, OSError, ValueError) as error:
        fail(error_text(error))


@contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """Log to stderr, and nothing below a warning: stdout is for the output of the command."""
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        yield
    finally:
        structlog.configure(**before)


@contextmanager
def journal_file() -> Iterator[Path]:
    """Give the path of the journal, with `errors_in_one_line`."""
    with errors_in_one_line():
        if nats_settings():
            fail("DESK_JOURNAL is on NATS: this command is for a journal in DESK_DATA_DIR")
        yield data_directory() / JOURNAL_FILE


def nats_settings() -> NatsSettings | None:
    """Return the settings of the journal if it is on NATS.

    Raises:
        SettingsError: they are wrong.
    """
    journal = setting("DESK_JOURNAL") or ""
    return NatsSettings.load(journal) if journal.startswith(SCHEME) else None


@contextmanager
def progress_bar() -> Iterator[ReportProgress]:
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
    """Hold the locks of gateway and followers of a directory; exit if one of them runs."""
    with ExitStack() as held:
        for path in (directory / f"{JOURNAL_FILE}.lock", *directory.glob("view-*.db.lock")):
            try:
                held.callback(FileLock(path).release)
            except BlockingIOError:
                fail(f"{path.with_suffix('')} is in use: stop gateway and service first")
        yield


def become_owner(directory: Path) -> None:
    """Act as the owner of a directory from here on, so that its processes can use the new files."""
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

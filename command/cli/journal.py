"""`desk journal`: check the journal, take it apart, and put it together again."""

import base64
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TextIO

import apsw
import click
import msgspec
from msgspec.structs import asdict

from command.cli import Group, fail
from command.cli.copying import copy
from command.cli.offline import (
    MAX_LISTED,
    become_owner,
    delete_views,
    errors_in_one_line,
    journal_file,
    list_damages,
    nats_settings,
    progress_bar,
    stopped,
)
from command.endpoints import data_directory
from command.engines import JOURNAL_FILE, open_stream
from display.texts import count_of
from journal import backup, sqlite_format
from journal.copying import damages_of, entries_of
from journal.damage import Damage, changed, damages, faults, header_faults, scan
from journal.entry import DAMAGED, MAX_INTEGER, Entry, Kind, validate
from journal.errors import JournalError
from journal.sqlite_file import connect_to_read, map_errors
from service import recovery
from service.view.errors import ViewError, sqlite_errors
from service.view.store import locate, open_reader

MAX_PROBLEM = 200
"""Characters of the reason for which a line is no entry."""

COUNT = "SELECT count(*) FROM entries WHERE revision BETWEEN ? AND ?"


@click.group(cls=Group)
def journal() -> None:
    """Check, copy, export and import the journal, rebuild it from a view."""


@journal.command()
def check() -> None:
    """Read all of the journal and of this version's view, and report what is damaged.

    Every entry is compared with its id, which is a digest of it; the view is compared with the
    journal, and with its own digest. Exit code 1 if anything is damaged. Both may be in use.
    """
    with errors_in_one_line():
        if nats := nats_settings():
            with closing(open_stream(nats)) as stream:
                with progress_bar() as report:
                    found, broken = damages_of(stream, report), list[str]()
                _print_result(f"stream {nats.nats_stream}", found, broken)
                checked = _check_view(stream.id, entries_of(stream))
        else:
            path = data_directory() / JOURNAL_FILE
            with _reading(path) as connection:
                with progress_bar() as report:
                    found = list(damages(connection, report))
                    broken = header_faults(connection) + faults(connection)
                _print_result(path.name, found, broken)
                journal_id = sqlite_format.journal_id(connection)
                checked = _check_view(journal_id, _readable(connection, []))
    sys.exit(bool(found or broken or checked.damages or checked.faults))


def _check_view(journal_id: str, entries: Iterable[Entry]) -> recovery.Checked:
    """Compare this version's view, if it is there, with the journal, and print the result."""
    view = locate(data_directory())
    if not view.exists():
        return recovery.Checked(0, [], [])
    try:
        checked = recovery.check(view, journal_id, entries)
    except ViewError as error:
        checked = recovery.Checked(0, [], [str(error)])
    _print_result(f"{view.name} (revision {checked.revision})", checked.damages, checked.faults)
    return checked


@journal.command("export")
@click.argument("file", default="-")
@click.option(
    "--forgotten",
    is_flag=True,
    help="Only the FORGET entries, for `desk restore --then-forget`.",
)
def export_(file: str, forgotten: bool) -> None:
    """Write the journal as JSON lines to FILE, which must not exist, or to stdout.

    One object per entry: revision, kind, id (hexadecimal), sdk_app_id, received_at (Unix time, ms),
    request_id, client_ip, platform, and body; a body that is not UTF-8 is in body_base64. Exit code
    1 if an entry cannot be read; the others are written all the same.
    """
    lost: list[Damage] = []
    with errors_in_one_line(), _entries(lost) as entries, _output(file) as output:
        for entry in entries:
            if forgotten and entry.kind != Kind.FORGET:
                continue
            output.write(f"{json.dumps(_document(entry), ensure_ascii=False)}\n")
        output.flush()
    list_damages(lost)
    sys.exit(bool(lost))


@journal.command("import")
@click.argument("file", type=click.File(encoding="utf-8"))
def import_(file: TextIO) -> None:
    """Make the JSON lines in FILE (- is stdin) the journal; there must be none yet.

    Entries keep their revisions. The journal has a new id.
    """
    with journal_file() as path:
        become_owner(path.parent)
        with stopped(path.parent):
            if path.exists():
                fail(f"{path} exists already: nothing was changed")
            content = _replace(path, map(entry_of_line, enumerate(file, 1)), [])
    click.echo(f"imported {count_of(content.entries, 'entry')}", err=True)
    list_damages(content.damages)
    sys.exit(bool(content.damages))


@journal.command()
@click.option("--from-view", is_flag=True, required=True, help="Take what is missing from a view.")
@click.option(
    "--view",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The view's file; by default the one in DESK_DATA_DIR with the highest revision.",
)
def restore(from_view: bool, view: Path | None) -> None:
    """Rebuild a journal that is lost or damaged, from a view and from what can be read of it.

    Gateway and service must be stopped. The damaged file is kept beside the new one. Entries keep
    their revisions. The journal gets a new id, so that clients that resume start over. Exit code 1
    if entries are lost or damaged, or if none can be rebuilt.
    """
    with journal_file() as path:
        become_owner(path.parent)
        with stopped(path.parent):
            source = view or _best_view(path.parent)
            missing: list[Damage] = []
            entries = recovery.merged(_intact(path, missing), recovery.entries_of(source))
            oldest = _progress_of(source, "begins_at")
            content = _replace(path, entries, missing, oldest=oldest)
            lost = list(_still_missing(path, missing))
    click.echo(
        f"rebuilt {count_of(content.entries, 'entry')} up to revision {content.head}, "
        f"with {source.name}",
        err=True,
    )
    list_damages([*content.damages, *lost])
    sys.exit(bool(content.damages or lost))


journal.add_command(copy)


@contextmanager
def _entries(lost: list[Damage]) -> Iterator[Iterator[Entry]]:
    """Give all entries of the journal, wherever it is; note those that cannot be read."""
    if nats := nats_settings():
        with closing(open_stream(nats)) as stream:
            yield entries_of(stream)
    else:
        with _reading(data_directory() / JOURNAL_FILE) as connection:
            yield _readable(connection, lost)


@contextmanager
def _reading(path: Path) -> Iterator[apsw.Connection]:
    with map_errors(path), closing(connect_to_read(path, "")) as connection:
        yield connection


def _readable(connection: apsw.Connection, unreadable: list[Damage]) -> Iterator[Entry]:
    """Read the entries that can be read; note what cannot."""
    for found in scan(connection):
        if isinstance(found, Damage):
            unreadable.append(found)
        else:
            yield found


def _intact(path: Path, missing: list[Damage]) -> Iterator[Entry]:
    """Read the entries that are as they were appended; note those that are not."""
    try:
        with _reading(path) as connection:
            for entry in _readable(connection, missing):
                if changed(entry):
                    missing.append(Damage(entry.revision, entry.revision, DAMAGED))
                else:
                    yield entry
    except JournalError as error:
        click.echo(f"desk: the present journal is of no use: {error}", err=True)


def _still_missing(path: Path, missing: list[Damage]) -> Iterator[Damage]:
    with _reading(path) as connection:
        for damage in missing:
            last = damage.last or MAX_INTEGER
            count = connection.execute(COUNT, (damage.first, last)).get
            if damage.last is None or count < damage.last - damage.first + 1:
                yield damage


def _replace(
    path: Path, entries: Iterable[Entry], missing: list[Damage], *, oldest: int = 1
) -> backup.Content:
    """Make entries the journal; keep the file of the one before."""
    with backup.temporary(path.parent) as copy, progress_bar() as report:
        report("writing", 0, 0)
        backup.write_new(copy, entries, oldest=oldest)
        content = backup.verify(copy, report, name=str(path))
        if not content.entries:
            fail("there is no entry to make a journal of: nothing was changed")
        if path.exists():
            if _is_whole(path, content.entries, missing):
                fail("the journal is whole: nothing was changed")
            aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
            os.link(path, aside)
            click.echo(f"the journal until now is kept as {aside}", err=True)
        backup.put_in_place(copy, path)
        delete_views(path.parent)
    return content


def _is_whole(path: Path, entries: int, missing: list[Damage]) -> bool:
    """Return True if a journal has so many entries, and nothing is wrong with it."""
    try:
        with _reading(path) as connection:
            count = connection.execute(COUNT, (1, MAX_INTEGER)).get
            return not missing and count == entries and not faults(connection)
    except JournalError:
        return False


def _best_view(directory: Path) -> Path:
    views = list(directory.glob("view-*.db"))
    if not views:
        fail(f"there is no view in {directory}: give one with --view")
    return max(views, key=lambda view: _progress_of(view, "applied_revision"))


def _progress_of(view: Path, column: str) -> int:
    with sqlite_errors(), closing(open_reader(view)) as db:
        return int(db.execute(f"SELECT {column} FROM progress").get or 0)  # noqa: S608


def _print_result(name: str, found: list[Damage], broken: list[str]) -> None:
    if not found and not broken:
        click.echo(f"{name}: nothing is damaged")
        return
    lines = [*map(str, found[:MAX_LISTED]), *broken]
    if more := len(found[MAX_LISTED:]):
        lines.append(f"… and {more:,} more")
    for line in lines:
        click.echo(f"{name}: {line}")


@contextmanager
def _output(file: str) -> Iterator[TextIO]:
    try:
        if file == "-":
            yield sys.stdout
            return
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with _deleted_on_error(Path(file)), open(descriptor, "w", encoding="utf-8") as output:
            yield output
    except OSError as error:
        fail(f"{'stdout' if file == '-' else file}: {error.strerror}")


@contextmanager
def _deleted_on_error(file: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        file.unlink()
        raise


def _document(entry: Entry) -> dict[str, Any]:
    document = asdict(entry) | {"id": entry.id.hex()}
    body = document.pop("body")
    try:
        document["body"] = body.decode()
    except UnicodeDecodeError:
        document["body_base64"] = base64.b64encode(body).decode()
    return document


def entry_of_line(numbered: tuple[int, str]) -> Entry:
    """Read a numbered line of an export.

    Raises:
        ValueError: it is none of ours.
    """
    number, line = numbered
    try:
        document = json.loads(line)
        body = document.pop("body", None)
        document["body"] = (
            body.encode() if body is not None else base64.b64decode(document.pop("body_base64"))
        )
        document["id"] = bytes.fromhex(document["id"])
        entry = msgspec.convert(document, Entry)
        validate(entry)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"[:MAX_PROBLEM]
        raise ValueError(f"line {number} is no entry: {problem}") from None
    return entry

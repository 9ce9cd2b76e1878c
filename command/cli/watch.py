"""`desk watch`: follows the feed, and keeps its position in a checkpoint file on request."""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from command.cli.connection import (
    FAILED,
    CallFailed,
    client_command,
    end_at_sigterm,
    require_service,
)
from command.cli.filters import VERDICT, event_filter, event_options
from command.cli.output import print_json
from command.cli.parameters import time_zone_option
from command.cli.printers import Printer, terminal_width
from command.cli.rows import Output, mask_options, row_options
from command.cli.tables import FEED, clock_text, exact_text
from desk.client import Client, JournalMismatch, Update
from desk.v1.event_pb2 import Forgotten, SessionRecord, Verdict
from desk.v1.event_service_pb2 import SubscribeResponse

VERDICTS = "Verdict, such as REJECTED. Default: every verdict but REJECTED."

WIDE = 140
"""Width of the terminal, in characters, from which on times have their day and milliseconds."""

SAVE_EVERY = 1.0
"""Seconds between two writes of the checkpoint file, which is also written at the end."""


class Checkpoint(msgspec.Struct, frozen=True):
    """The position of a watch.

    Attributes:
        journal_id: the journal that `revision` counts in.
        revision: the last revision that was printed.
    """

    journal_id: str
    revision: int


@click.command()
@event_options
@click.option("--verdict", "verdicts", type=VERDICT, multiple=True, help=VERDICTS)
@click.option("--after", type=click.IntRange(0), help="Start after this revision, a number.")
@click.option("--from-start", is_flag=True, help="Start at the oldest revision.")
@click.option("--until-caught-up", is_flag=True, help="End at the newest revision.")
@click.option(
    "--include-session", is_flag=True, help="With --json: add the session after each record."
)
@click.option(
    "--skip-forgotten",
    is_flag=True,
    help="Start although records of forgotten sessions are missing since then.",
)
@click.option(
    "--checkpoint-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Resume from the revision in this file, and keep it up to date. At the first start, the "
    "other options say where to begin. Records printed just before a crash are printed again.",
)
@time_zone_option
@row_options(FEED)
@mask_options
@client_command
async def watch(
    client: Client,
    *,
    after: int | None,
    from_start: bool,
    until_caught_up: bool,
    include_session: bool,
    skip_forgotten: bool,
    checkpoint_file: Path | None,
    output: Output[SessionRecord],
    mask: dict[str, bool],
    **options: Any,
) -> None:
    """Follow the events of sessions, by default from now on, until Ctrl-C.

    Reconnects when the connection is lost, and resumes. STATE is the state of the session after all
    its callbacks so far, EFFECT what the event changed at its place in time order. NOTE says `late`
    and by how much an event is older than the newest of its session; an event whose verdict a late
    callback changed is printed again, marked `revised`. Sessions that are forgotten are reported on
    stderr, with --json on stdout as an object `forgotten`.
    """
    if from_start and after is not None:
        raise click.UsageError("--after and --from-start exclude each other")
    _log_to_stderr()
    saved = _CheckpointFile(checkpoint_file)
    start = saved.read()
    await require_service(client)
    updates = client.subscribe(
        after_revision=start.revision if start else 0 if from_start else after,
        journal_id=start.journal_id if start else "",
        event_filter=event_filter(**options),
        include_session=include_session or output.form != "json",  # it tells which events are late
        skip_forgotten=skip_forgotten,
        **mask,
    )
    end_at_sigterm()
    try:
        await _print_all(updates, output, saved, until_caught_up=until_caught_up)
    except JournalMismatch as error:
        if checkpoint_file is None:
            raise
        message = f"{checkpoint_file} counts in another journal: delete it to start over"
        raise CallFailed(f"{message} ({error.code.name}, {error.reason})", FAILED) from None
    except asyncio.CancelledError:  # Ctrl-C or SIGTERM: the regular end
        pass
    finally:
        saved.write()


async def _print_all(
    updates: AsyncGenerator[Update, None],
    output: Output[SessionRecord],
    saved: "_CheckpointFile",
    *,
    until_caught_up: bool,
) -> None:
    narrow = partial(clock_text, precision="seconds")
    printer = output.printer(cell=narrow if terminal_width() < WIDE else exact_text, style=_style)
    async with aclosing(updates):
        async for update in updates:
            _print(update, printer, live=output.is_table and not until_caught_up)
            if update.forgotten:
                _print_forgotten(update.forgotten, as_json=output.form == "json")
            saved.note(Checkpoint(update.journal_id, update.revision))
            if until_caught_up and update.caught_up:
                break


class _CheckpointFile:
    """The checkpoint file; does nothing without a path."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._newest: Checkpoint | None = None
        self._written: Checkpoint | None = None
        self._written_at = 0.0

    def read(self) -> Checkpoint | None:
        if self._path is None or not self._path.exists():
            return None
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Checkpoint)
        except (OSError, msgspec.MsgspecError) as error:
            raise click.UsageError(f"{self._path} is not a checkpoint: {error}") from None

    def note(self, checkpoint: Checkpoint) -> None:
        self._newest = checkpoint
        if asyncio.get_running_loop().time() - self._written_at >= SAVE_EVERY:
            self.write()

    def write(self) -> None:
        if self._path is None or self._newest in (None, self._written):
            return
        try:
            _replace(self._path, msgspec.json.encode(self._newest) + b"\n")
        except OSError as error:
            raise CallFailed(f"{self._path} cannot be written: {error.strerror}", FAILED) from None
        self._written, self._written_at = self._newest, asyncio.get_running_loop().time()


def _replace(path: Path, content: bytes) -> None:
    """Replace a file atomically: a reader, or a crash, finds the old content or the new."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _print(update: Update, printer: Printer[SessionRecord], *, live: bool) -> None:
    printer.add(update.records)
    printer.flush()
    if update.caught_up and live and sys.stdout.isatty():
        click.secho(f"-- caught up at revision {update.revision}", dim=True)
    if update.fell_behind:
        click.echo("desk: events come faster than they can be printed; catching up", err=True)


def _print_forgotten(forgotten: Forgotten, *, as_json: bool) -> None:
    if as_json:
        print_json(SubscribeResponse(forgotten=forgotten))
        return
    sessions, malformed = len(forgotten.session_ids), len(forgotten.malformed_revisions)
    what = f"sessions: {sessions:,}, malformed callbacks: {malformed:,}"
    click.echo(
        f"desk: forgotten at revision {forgotten.revision} in app {forgotten.sdk_app_id}: {what}",
        err=True,
    )


_COLOURS = {Verdict.VERDICT_REJECTED: "red", Verdict.VERDICT_UNRECOGNISED: "yellow"}


def _style(record: SessionRecord) -> dict[str, str]:
    if record.revised:
        return {"fg": "magenta"}
    return {"fg": _COLOURS[record.verdict]} if record.verdict in _COLOURS else {}


def _log_to_stderr() -> None:
    """Print the client library's warnings to stderr: stdout has records only."""
    logging.basicConfig(format="desk: %(message)s")

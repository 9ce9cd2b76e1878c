"""`desk watch`: follows the feed, and keeps its position in a checkpoint file on request."""

import asyncio
import logging
import os
import signal
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click
import msgspec
from desk.client import Client, JournalMismatch, Update
from desk.v1.event_pb2 import SessionRecord, Verdict

from command.cli.connection import FAILED, CallFailed, client_command
from command.cli.filters import VERDICT, event_filter, event_options
from command.cli.output import (
    duration_text,
    enum_name,
    json_option,
    print_json,
    printable,
    time_text,
    width,
)
from command.cli.tables import CLOCK, DAY_AND_CLOCK, WIDE, effect, event_name, verdict

VERDICTS = "Verdict, such as REJECTED. Default: every verdict but REJECTED."

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
@click.option("--include-session", is_flag=True, help="Add the session's state after each record.")
@click.option(
    "--checkpoint-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Resume from the revision in this file, and keep it up to date. At the first start, the "
    "other options say where to begin. Records printed just before a crash are printed again.",
)
@json_option
@client_command
async def watch(
    client: Client,
    *,
    after: int | None,
    from_start: bool,
    include_session: bool,
    checkpoint_file: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Follow the events of sessions, by default from now on, until Ctrl-C.

    Reconnects when the connection is lost, and resumes. An event whose verdict a late callback
    changed is printed again, marked `revised`.
    """
    if from_start and after is not None:
        raise click.UsageError("--after and --from-start exclude each other")
    _log_to_stderr()
    saved = _CheckpointFile(checkpoint_file)
    start = saved.read()
    await client.status()  # a wrong --target is an error; a connection lost later is not
    updates = client.subscribe(
        after_revision=start.revision if start else 0 if from_start else after,
        journal_id=start.journal_id if start else "",
        event_filter=event_filter(**options),
        include_session=include_session,
    )
    _end_at_sigterm()
    try:
        async with aclosing(updates):
            async for update in updates:
                _print(update, as_json=as_json)
                saved.note(Checkpoint(update.journal_id, update.revision))
    except JournalMismatch as error:
        if checkpoint_file is None:
            raise
        message = f"{checkpoint_file} counts in another journal: delete it to start over"
        raise CallFailed(f"{message} ({error.code.name}, {error.reason})", FAILED) from None
    except asyncio.CancelledError:  # Ctrl-C or SIGTERM: the regular end
        pass
    finally:
        saved.write()


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


def _print(update: Update, *, as_json: bool) -> None:
    if as_json:
        for record in update.records:
            print_json(record)
        return
    for record in update.records:
        click.echo(_line(record))
    if update.caught_up and sys.stdout.isatty():
        click.secho(f"-- caught up at revision {update.revision}", dim=True)
    if update.fell_behind:
        click.echo("desk: events come faster than they can be printed; catching up", err=True)


def _line(record: SessionRecord) -> str:
    event, wide = record.event, width() >= WIDE
    fields = [
        f"{record.revision:>7}",
        time_text(event, "event_time", form=DAY_AND_CLOCK if wide else CLOCK),
        f"{event.session_id:<36}" if wide else f"{event.session_id[:8]:<8}",
        f"{event_name(record):<23}",
        f"{verdict(record):<8}",
        effect(record),
    ]
    if record.revised:
        fields.append("(revised)")
    elif record.HasField("late_by"):
        fields.append(f"(late by {duration_text(record, 'late_by')})")
    if record.HasField("session"):
        fields.append(
            f"now {enum_name(record.session, 'state')} {record.session.agent_id}".rstrip()
        )
    colour = {Verdict.VERDICT_REJECTED: "red", Verdict.VERDICT_UNRECOGNISED: "yellow"}
    tint = "magenta" if record.revised else colour.get(record.verdict)
    return click.style(printable("  ".join(fields)), fg=tint)


def _end_at_sigterm() -> None:
    watching = asyncio.current_task()
    if watching is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, watching.cancel)


def _log_to_stderr() -> None:
    """Print the client library's warnings to stderr: stdout has records only."""
    logging.basicConfig(format="desk: %(message)s")

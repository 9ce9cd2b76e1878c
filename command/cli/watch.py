"""`desk watch`: follows the feed, and remembers on request how far it has come."""

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

from command.cli.connection import FAILED, CallFailed, asks
from command.cli.filters import VERDICT, event_filter, event_options
from command.cli.output import harmless, how_long, json_option, name_of, print_json, when, width
from command.cli.tables import CLOCK, DAY_AND_CLOCK, WIDE, event_name, outcome, verdict

SAVE_EVERY = 1.0
"""Seconds between two writes of the checkpoint file; it is also written at the end."""


class Checkpoint(msgspec.Struct, frozen=True):
    """How far a watch has come.

    Attributes:
        journal_id: the journal that `revision` counts in.
        revision: the last one that was shown.
    """

    journal_id: str
    revision: int


@click.command()
@event_options
@click.option("--verdict", "verdicts", type=VERDICT, multiple=True, help="Default: not REJECTED.")
@click.option("--after", type=click.IntRange(0), help="From this revision on, exclusive.")
@click.option("--from-start", is_flag=True, help="From the oldest revision on.")
@click.option("--include-session", is_flag=True, help="Show the session after each record.")
@click.option(
    "--checkpoint-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Go on where this file says, and keep it up to date. At the first start, as the other "
    "options say. What was shown just before a crash is shown again.",
)
@json_option
@asks
async def watch(
    client: Client,
    *,
    after: int | None,
    from_start: bool,
    include_session: bool,
    checkpoint_file: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Follow what happens to sessions: by default from now on, until Ctrl-C.

    Connects again when the connection is lost, and goes on where it was. A verdict that a late
    callback has changed is shown again, marked `revised`.
    """
    if from_start and after is not None:
        raise click.UsageError("--after and --from-start exclude each other")
    _log_to_stderr()
    saved = _Saved(checkpoint_file)
    start = saved.read()
    await client.status()  # a wrong --target is an error; only later breaks are waited out
    updates = client.subscribe(
        after_revision=start.revision if start else 0 if from_start else after,
        journal_id=start.journal_id if start else "",
        event_filter=event_filter(**given),
        include_session=include_session,
    )
    _end_at_sigterm()
    try:
        async with aclosing(updates):
            async for update in updates:
                _show(update, as_json=as_json)
                saved.note(Checkpoint(update.journal_id, update.revision))
    except JournalMismatch as error:
        if checkpoint_file is None:
            raise
        what = f"{checkpoint_file} counts in another journal: delete it to start over"
        raise CallFailed(f"{what} ({error.code.name}, {error.reason})", FAILED) from None
    except asyncio.CancelledError:  # Ctrl-C and SIGTERM are how a watch ends
        pass
    finally:
        saved.write()


class _Saved:
    """The checkpoint file, if there is to be one."""

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
    """Replace the file as a whole: a reader, or a crash, sees the old one or the new one."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _show(update: Update, *, as_json: bool) -> None:
    for record in update.records:
        print_json(record) if as_json else click.echo(_line(record))
    if as_json:
        return
    if update.caught_up and sys.stdout.isatty():
        click.secho(f"-- caught up at revision {update.revision}", dim=True)
    if update.fell_behind:
        click.echo("desk: events come faster than they are read here; catching up", err=True)


def _line(record: SessionRecord) -> str:
    event, wide = record.event, width() >= WIDE
    fields = [
        f"{record.revision:>7}",
        when(event, "event_time", form=DAY_AND_CLOCK if wide else CLOCK),
        f"{event.session_id:<36}" if wide else f"{event.session_id[:8]:<8}",
        f"{event_name(record):<23}",
        f"{verdict(record):<8}",
        outcome(record),
    ]
    if record.revised:
        fields.append("(revised)")
    elif record.HasField("late_by"):
        fields.append(f"(late by {how_long(record, 'late_by')})")
    if record.HasField("session"):
        fields.append(f"now {name_of(record.session, 'state')} {record.session.agent_id}".rstrip())
    colour = {Verdict.VERDICT_REJECTED: "red", Verdict.VERDICT_UNRECOGNISED: "yellow"}
    tint = "magenta" if record.revised else colour.get(record.verdict)
    return click.style(harmless("  ".join(fields)), fg=tint)


def _end_at_sigterm() -> None:
    watching = asyncio.current_task()
    if watching is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, watching.cancel)


def _log_to_stderr() -> None:
    """Show the client library's warnings; stdout is for records alone."""
    logging.basicConfig(format="desk: %(message)s")

"""`desk status`: revisions, lag and versions of the service."""

import time
from itertools import chain

import click
from desk.client import Client
from desk.v1.status_pb2 import AppCallbacks, GetStatusResponse
from google.protobuf.duration_pb2 import Duration

from command.cli.connection import client_command
from command.cli.output import (
    format_duration,
    format_size,
    json_option,
    print_fields,
    print_json,
    time_text,
)
from command.cli.parameters import time_zone_option
from simulator.words import count_of

SILENCE = 10.0
"""Seconds without a sign of life from the follower after which a warning is printed."""


@click.command()
@time_zone_option
@json_option
@client_command
async def status(client: Client, *, as_json: bool) -> None:
    """Show the lag, the callbacks of each app by outcome, disk space, and versions."""
    answer = await client.status()
    if as_json:
        print_json(answer)
    else:
        print_fields(_fields(answer))
    silence = _follower_silence(answer)
    if silence is None or silence > SILENCE:
        seen = "never seen" if silence is None else f"last seen {_ago(silence)} ago"
        click.echo(f"desk: the follower was {seen}: new callbacks do not show up", err=True)
    if answer.silent_processes:
        names = ", ".join(answer.silent_processes)
        click.echo(f"desk: no sign of life from {names}", err=True)
    if answer.follower_problem:
        click.echo(f"desk: the follower cannot go on: {answer.follower_problem}", err=True)
    if answer.damaged_entries:
        click.echo("desk: entries of the journal are damaged: see desk journal check", err=True)


def _fields(status: GetStatusResponse) -> list[tuple[str, str]]:
    silence, disk = _follower_silence(status), status.disk_usage
    return [
        ("journal", status.header.journal_id),
        ("applied revision", str(status.header.revision)),
        ("head revision", str(status.head_revision)),
        ("oldest revision", str(status.oldest_revision)),
        ("lag", _lag(status)),
        ("follower seen", "-" if silence is None else f"{_ago(silence)} ago"),
        ("damaged entries", str(status.damaged_entries or "")),
        ("fingerprint", status.fingerprint),
        ("feed digest", status.feed_digest),
        ("apps", ", ".join(map(str, status.sdk_app_ids))),
        ("subscribers", str(status.subscribers)),
        ("worker since", time_text(status, "started_at")),
        ("journal on disk", _on_disk(disk.journal_bytes, disk.journal_wal_bytes)),
        ("view on disk", _on_disk(disk.view_bytes, disk.view_wal_bytes)),
        ("gateway since", time_text(status.gateway, "started_at")),
        *chain.from_iterable(map(_traffic, status.gateway.apps)),
        ("version", status.service_version),
        *((part.name, part.version) for part in status.component_versions),
    ]


def _on_disk(database: int, wal: int) -> str:
    return f"{format_size(database)}, WAL {format_size(wal)}" if database or wal else "-"


def _traffic(app: AppCallbacks) -> list[tuple[str, str]]:
    """Return the rows of an app: its callbacks by outcome since the start of the gateway."""
    counts = ", ".join(f"{each.outcome} {each.number:,}" for each in app.outcomes)
    if not app.sdk_app_id:
        return [("other requests", counts)]
    checked = "signatures checked" if app.signatures_checked else "signatures not checked"
    return [
        (f"app {app.sdk_app_id}", checked),
        ("  last callback", time_text(app, "last_callback_at")),
        ("  callbacks", counts),
    ]


def _lag(status: GetStatusResponse) -> str:
    behind = count_of(status.lag, "callback")
    return f"{behind}, {format_duration(status.lag_time)}" if status.lag else "none"


def _follower_silence(status: GetStatusResponse) -> float | None:
    """Return the seconds since the follower's last sign of life, by the clocks of both machines."""
    if not status.HasField("follower_seen_at"):
        return None
    return max(0.0, time.time() - status.follower_seen_at.ToMilliseconds() / 1000)


def _ago(seconds: float) -> str:
    return format_duration(Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9)))

"""`desk status`: revisions, lag and versions of the service."""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import click
from google.protobuf.duration_pb2 import Duration

from command.cli.connection import (
    FAILED,
    UNREACHABLE,
    CallFailed,
    failure_text,
    replicas_command,
)
from command.cli.output import json_option, print_fields, print_json, time_text
from command.cli.parameters import time_zone_option
from desk.client import Client, ClientError
from desk.v1.status_pb2 import AppCallbacks, GetStatusResponse
from display import documents
from display.texts import count_of, format_duration, format_size, printable

SHORT_DIGEST = 12
"""Characters of a digest in a table."""

SILENCE = 10.0
"""Seconds without a sign of life from the follower after which a warning is printed."""

DELETED_WITHIN = 24 * 60 * 60.0
"""Seconds after which a warning is printed if the bytes of what was forgotten are not deleted."""

Answer = GetStatusResponse | ClientError


@click.command()
@time_zone_option
@json_option
@replicas_command
async def status(replicas: dict[str, Client], *, as_json: bool) -> None:
    """Show the lag, the callbacks of each app by outcome, disk space, and versions.

    With several targets: a line for each, and whether they agree.
    """
    if len(replicas) == 1:
        for client in replicas.values():
            _show(await client.status(), as_json=as_json)
        return
    answers = dict(zip(replicas, await asyncio.gather(*map(_ask, replicas.values())), strict=True))
    if as_json:
        for target, answer in answers.items():
            click.echo(json.dumps({"target": target, **_json(answer)}, ensure_ascii=False))
    else:
        _print_table([_HEADING, *(_row(target, answer) for target, answer in answers.items())])
    _check_all(answers)


def _show(answer: GetStatusResponse, *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        print_fields(_fields(answer))
    for warning in _warnings(answer):
        click.echo(f"desk: {warning}", err=True)


def _warnings(answer: GetStatusResponse) -> Iterator[str]:
    silence = _follower_silence(answer)
    if silence is None or silence > SILENCE:
        seen = "never seen" if silence is None else f"last seen {_ago(silence)} ago"
        yield f"the follower was {seen}: new callbacks do not show up"
    if answer.silent_processes:
        yield f"no sign of life from {', '.join(answer.silent_processes)}"
    if answer.follower_problem:
        yield f"the follower cannot go on: {answer.follower_problem}"
    if answer.damaged_entries:
        yield "entries of the journal are damaged: see desk journal check"
    if answer.scrub.differences:
        found = count_of(answer.scrub.differences, "difference")
        yield f"{found} of journal and view: {answer.scrub.first_difference}"
    if answer.retention.problem:
        yield f"the daily forgetting failed: {answer.retention.problem}"
    since = answer.forgotten_since.seconds
    if since and time.time() - since > DELETED_WITHIN:
        yield "forgotten entries are not deleted yet: see entries_not_deleted in the log"
    reason = answer.not_serving_reason
    if reason and not (answer.follower_problem or answer.silent_processes):
        yield f"not serving: {reason}"


# ---- Several replicas ----

_HEADING = ("REPLICA", "STATE", "REVISION", "LAG", "DIGEST", "")


async def _ask(client: Client) -> Answer:
    try:
        return await client.status()
    except ClientError as error:
        return error


def _json(answer: Answer) -> dict[str, Any]:
    return {"error": str(answer)} if isinstance(answer, ClientError) else documents.as_json(answer)


def _row(target: str, answer: Answer) -> tuple[str, ...]:
    if isinstance(answer, ClientError):
        return (target, "no answer", "-", "-", "-", failure_text(answer, target))
    state = "not serving" if answer.not_serving_reason else "serving"
    digest = answer.feed_digest[:SHORT_DIGEST]
    warnings = "; ".join(_warnings(answer))
    return (target, state, str(answer.header.revision), _lag(answer), digest, warnings)


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(printable("  ".join(cells).rstrip()))


def _check_all(answers: dict[str, Answer]) -> None:
    """Raise an error if a replica does not answer, or contradicts another."""
    statuses = [each for each in answers.values() if isinstance(each, GetStatusResponse)]
    if len({each.header.journal_id for each in statuses}) > 1:
        raise CallFailed("the replicas follow different journals", FAILED)
    digests: dict[tuple[int, str], set[str]] = {}
    for each in statuses:
        at = each.header.revision, each.fingerprint
        digests.setdefault(at, set()).add(each.feed_digest)
    for (revision, _), different in digests.items():
        if len(different) > 1:
            raise CallFailed(f"the replicas have different feeds at revision {revision}", FAILED)
    if len(statuses) < len(answers):
        missing = len(answers) - len(statuses)
        raise CallFailed(f"{missing} of {len(answers)} replicas did not answer", UNREACHABLE)


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
        ("scrub", _scrub(status)),
        ("retention", _retention(status)),
        ("entries to delete", _to_delete(status)),
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


def _scrub(status: GetStatusResponse) -> str:
    if not status.HasField("scrub"):
        return "-"
    found = count_of(status.scrub.differences, "difference")
    return f"{found}, last completed {time_text(status.scrub, 'completed_at')}"


def _retention(status: GetStatusResponse) -> str:
    if not status.HasField("retention"):
        return "-"
    run = status.retention
    found = f"{count_of(run.sessions, 'session')}, {count_of(run.malformed, 'malformed callback')}"
    kept, at = count_of(run.keep.seconds // 86_400, "day"), time_text(run, "completed_at")
    return f"{kept}; last run completed {at}, forgot {found}"


def _to_delete(status: GetStatusResponse) -> str:
    if not status.entries_to_delete:
        return ""
    return f"{status.entries_to_delete:,}, forgotten since {time_text(status, 'forgotten_since')}"


def _follower_silence(status: GetStatusResponse) -> float | None:
    """Return the seconds since the follower's last sign of life, by the clocks of both machines."""
    if not status.HasField("follower_seen_at"):
        return None
    return max(0.0, time.time() - status.follower_seen_at.ToMilliseconds() / 1000)


def _ago(seconds: float) -> str:
    return format_duration(Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9)))

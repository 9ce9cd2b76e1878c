"""`desk forget`: erase sessions, or malformed callbacks, for good."""

import asyncio
import sys
from contextlib import suppress
from typing import Any

import click

from command.cli import fail
from command.cli.connection import client_command
from command.cli.filters import TIMES, app_option
from command.cli.offline import progress_bar
from command.cli.output import json_option, print_json
from command.cli.parameters import Moment, time_zone_option
from desk.client import Client, Denied
from desk.v1.admin_service_pb2 import ForgetResponse
from display.texts import count_of
from journal.damage import ReportProgress

DELETED_WITHIN = 30.0
POLL = 0.2
"""Seconds to wait for the deletion of the bytes, and between two looks."""


@click.command(epilog=TIMES)
@click.option("--session", "session_ids", multiple=True, help="Id of a session; may be repeated.")
@click.option(
    "--user",
    "client_user_id",
    help="Id of a user (ClientUserId): all its sessions, and malformed callbacks that name it.",
)
@click.option(
    "--agent-messages-of",
    "agent_id",
    help="Id of an agent: all sessions in which that agent took part, with all that others wrote "
    "in them, and malformed callbacks that name it.",
)
@click.option(
    "--silent-for",
    "silent_before",
    type=Moment(),
    metavar="TIME",
    help="Sessions without an event and without a callback since TIME, such as 400d.",
)
@click.option(
    "--malformed-before",
    type=Moment(),
    metavar="TIME",
    help="Malformed callbacks that were received before TIME: the only way to those in which no "
    "session, user or agent can be read.",
)
@app_option
@click.option("--dry-run", is_flag=True, help="Count what would be forgotten; forget nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for a confirmation.")
@time_zone_option
@json_option
@client_command
async def forget(
    client: Client,
    *,
    sdk_app_id: int | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **target: Any,
) -> None:
    """Erase sessions, or malformed callbacks, for good: give one of the first five options.

    A session is erased wholly, and subscribers are told. Backups, logs and the copies of others
    cannot be reached from here: see docs/forgetting.md. If the command breaks off, run it again.
    """
    if sum(map(bool, target.values())) != 1:
        names = "--session, --user, --agent-messages-of, --silent-for or --malformed-before"
        raise click.UsageError(f"give one of {names}")
    target["sdk_app_id"] = sdk_app_id or 0
    with progress_bar() as report:
        chosen = await _run(client, report, 0, dry_run=True, **target)
    total = chosen.sessions + chosen.malformed
    of_app = f" in app {sdk_app_id}" if sdk_app_id else ""
    if dry_run or not total:
        _print(chosen, f"would be forgotten{of_app}", as_json=as_json)
        return
    if not yes:
        _confirm(chosen)
    with progress_bar() as report:
        done = await _run(client, report, total, **target)
        deleted = await _wait_deleted(client, report)
    _print(done, f"forgotten{of_app}", as_json=as_json)
    if not as_json:
        click.echo(f"The bytes in the journal {'are' if deleted else 'will be'} deleted.")


async def _run(
    client: Client, report: ReportProgress, total: int, **request: Any
) -> ForgetResponse:
    """Make the call, and return the totals at its end."""
    entries: list[int] = []
    totals = ForgetResponse()
    async for totals in client.forget(**request):
        entries += totals.forget_revisions
        report("forgetting" if total else "counting", totals.sessions + totals.malformed, total)
    totals.forget_revisions[:] = entries
    return totals


async def _wait_deleted(client: Client, report: ReportProgress) -> bool:
    """Wait a while until the bytes are deleted; return True if they are known to be."""
    with suppress(Denied, TimeoutError):
        async with asyncio.timeout(DELETED_WITHIN):
            while left := (await client.status()).entries_to_delete:
                report(f"deleting {left:,} entries", 0, 0)
                await asyncio.sleep(POLL)
            return True
    return False


def _confirm(chosen: ForgetResponse) -> None:
    if not sys.stdin.isatty():
        fail(f"{_totals_text(chosen)} would be forgotten for good: nothing was done; --yes does it")
    click.confirm(f"Forget {_totals_text(chosen)} for good?", abort=True, err=True)


def _print(totals: ForgetResponse, verb: str, *, as_json: bool) -> None:
    if as_json:
        print_json(totals)
    else:
        click.echo(f"{_totals_text(totals)} {verb}")


def _totals_text(totals: ForgetResponse) -> str:
    counts = {"session": totals.sessions, "malformed callback": totals.malformed}
    found = [count_of(number, noun) for noun, number in counts.items() if number]
    if not found:
        return "nothing"
    first, last = totals.first_revision, totals.last_revision
    span = f"revision {first}" if first == last else f"revisions {first} to {last}"
    return f"{' and '.join(found)}, {span},"

"""`desk status`: where the service stands."""

import time

import click
from desk.client import Client
from desk.v1.status_pb2 import GetStatusResponse
from google.protobuf.duration_pb2 import Duration

from command.cli.connection import asks
from command.cli.output import json_option, print_facts, print_json, span, when
from command.words import count_of

SILENCE = 10.0
"""Seconds without a sign of life after which the follower is said to be silent."""


@click.command()
@json_option
@asks
async def status(client: Client, *, as_json: bool) -> None:
    """Show how far the service has come, how far it is behind, and what it is made of."""
    answer = await client.status()
    print_json(answer) if as_json else print_facts(_facts(answer))
    silence = _follower_silence(answer)
    if silence is None or silence > SILENCE:
        seen = "never seen" if silence is None else f"last seen {_ago(silence)} ago"
        click.echo(f"desk: the follower was {seen}: new callbacks stay invisible", err=True)


def _facts(status: GetStatusResponse) -> list[tuple[str, str]]:
    silence = _follower_silence(status)
    return [
        ("journal", status.header.journal_id),
        ("applied revision", str(status.header.revision)),
        ("head revision", str(status.head_revision)),
        ("oldest revision", str(status.oldest_revision)),
        ("lag", _lag(status)),
        ("follower seen", "-" if silence is None else f"{_ago(silence)} ago"),
        ("fingerprint", status.fingerprint),
        ("feed digest", status.feed_digest),
        ("apps", ", ".join(map(str, status.sdk_app_ids))),
        ("subscribers", str(status.subscribers)),
        ("worker since", when(status, "started_at")),
        ("version", status.service_version),
        *((part.name, part.version) for part in status.component_versions),
    ]


def _lag(status: GetStatusResponse) -> str:
    behind = count_of(status.lag, "callback")
    return f"{behind}, {span(status.lag_time)}" if status.lag else "none"


def _follower_silence(status: GetStatusResponse) -> float | None:
    """Seconds since its last sign of life, by two clocks if the service is elsewhere."""
    if not status.HasField("follower_seen_at"):
        return None
    return max(0.0, time.time() - status.follower_seen_at.ToMilliseconds() / 1000)


def _ago(seconds: float) -> str:
    return span(Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9)))

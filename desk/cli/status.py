"""`desk status`: where the service stands."""

import click

from desk.cli.connection import asks
from desk.cli.output import json_option, print_facts, print_json, span, when
from desk.client import Client
from desk.v1.status_pb2 import GetStatusResponse


@click.command()
@json_option
@asks
async def status(client: Client, *, as_json: bool) -> None:
    """Show how far the service has come, how far it is behind, and what it is made of."""
    answer = await client.status()
    print_json(answer) if as_json else print_facts(_facts(answer))


def _facts(status: GetStatusResponse) -> list[tuple[str, str]]:
    return [
        ("journal", status.header.journal_id),
        ("applied revision", str(status.header.revision)),
        ("head revision", str(status.head_revision)),
        ("oldest revision", str(status.oldest_revision)),
        ("lag", f"{status.lag} callbacks, {span(status.lag_time)}" if status.lag else "none"),
        ("fingerprint", status.fingerprint),
        ("feed digest", status.feed_digest),
        ("apps", ", ".join(map(str, status.sdk_app_ids))),
        ("subscribers", str(status.subscribers)),
        ("worker since", when(status, "started_at")),
        ("version", status.service_version),
        *((part.name, part.version) for part in status.component_versions),
    ]

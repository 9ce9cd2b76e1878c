"""The state of the service: replicas side by side, the gateway, disks, versions, settings."""

import asyncio
from typing import Any

from console.page import Document, Page
from console.query import Query
from desk.client import Client, ClientError
from display.documents import as_json


class Health(Page):
    """The state of the service and of each of its replicas."""

    path = "/health"
    title = "Health"
    template = "health.html"

    async def document(self, query: Query) -> Document:
        """Return the status of each replica, whether they agree, and the settings."""
        answers = await asyncio.gather(*map(_status, self.site.replicas.values()))
        replicas = [
            {"target": target, **answer}
            for target, answer in zip(self.site.replicas, answers, strict=True)
        ]
        return {
            "replicas": replicas,
            "agreement": _agreement(replicas),
            "settings": self.site.settings,
        }


async def _status(client: Client) -> dict[str, Any]:
    try:
        return {"status": as_json(await client.status()), "error": ""}
    except ClientError as error:
        return {"status": None, "error": error.detail}


def _agreement(replicas: list[dict[str, Any]]) -> str:
    """Return whether replicas at equal revisions have equal digests: yes, no, or unknown."""
    digests: dict[tuple[str, int], set[str]] = {}
    for replica in replicas:
        if status := replica["status"]:
            header = status["header"]
            place = header["journal_id"], header["revision"]
            digests.setdefault(place, set()).add(status["feed_digest"])
    if any(len(found) > 1 for found in digests.values()):
        return "no"
    if len(digests) == 1:
        return "yes"
    return "unknown"

"""The state of the service: replicas side by side, the gateway, disks, versions, settings."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from console.page import Document, Page
from console.query import Query
from desk.client import ClientError
from display.documents import as_json


class Health(Page):
    """The state of the service and of each of its replicas."""

    path = "/health"
    title = "Health"
    template = "health.html"

    async def document(self, query: Query) -> Document:
        """Return the status of each replica, whether they agree, and the settings."""
        replicas = await asyncio.gather(*map(self._replica, self.site.replicas))
        return {
            "replicas": replicas,
            "agreement": _agreement(replicas),
            "settings": self.site.settings,
            "settings_of": self.site.settings_of,
        }

    async def _replica(self, target: str) -> dict[str, Any]:
        try:
            answer = await self.site.replicas[target].status()
        except ClientError as error:
            return {"target": target, "status": None, "error": error.detail}
        rates = self.site.rates.per_minute(target, answer.gateway, datetime.now(UTC))
        status = as_json(answer)
        for app in status.get("gateway", {"apps": []})["apps"]:
            for each in app["outcomes"]:
                each["per_minute"] = rates.get((app["sdk_app_id"], each["outcome"]))
        return {"target": target, "status": status, "error": ""}


def _agreement(replicas: Sequence[Mapping[str, Any]]) -> str:
    """Return whether replicas at equal revisions have equal digests: yes, no, or unknown."""
    digests: dict[tuple[str, str, int], list[str]] = {}
    for replica in replicas:
        if status := replica["status"]:
            header = status["header"]
            place = header["journal_id"], status["fingerprint"], header["revision"]
            digests.setdefault(place, []).append(status["feed_digest"])
    compared = [found for found in digests.values() if len(found) > 1]
    if any(len(set(found)) > 1 for found in compared):
        return "no"
    return "yes" if compared else "unknown"

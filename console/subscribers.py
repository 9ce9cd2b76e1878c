"""The open streams of the feed, and how far behind each is."""

import asyncio

from console.page import Document, Page
from console.query import Query
from desk.client import Client, ClientError
from desk.v1.status_pb2 import ListSubscribersRequest, ListSubscribersResponse
from display.documents import as_json


class Subscribers(Page):
    """The subscribers of each replica."""

    path = "/subscribers"
    title = "Subscribers"
    template = "subscribers.html"
    rows = "subscribers"
    columns = (
        "replica", "worker", "client", "address", "filter", "started_at", "revision", "lag",
        "lag_time_seconds",
    )  # fmt: skip

    async def document(self, query: Query) -> Document:
        """Return the streams by replica, the furthest behind first; and all in one list."""
        answers = await asyncio.gather(*map(_listed, self.site.replicas.values()))
        failed = [answer for answer in answers if isinstance(answer, ClientError)]
        if len(failed) == len(answers):
            raise failed[0]
        replicas = [
            {"replica": target, **_shown(answer)}
            for target, answer in zip(self.site.replicas, answers, strict=True)
        ]
        return {
            "replicas": replicas,
            "subscribers": [
                {"replica": each["replica"], **stream}
                for each in replicas
                for stream in each.get("subscribers", [])
            ],
        }


def _shown(answer: ListSubscribersResponse | ClientError) -> Document:
    if isinstance(answer, ClientError):
        return {"problem": answer.detail}
    return {"problem": "", **as_json(answer)}


async def _listed(client: Client) -> ListSubscribersResponse | ClientError:
    try:
        answer: ListSubscribersResponse = await client.call(
            client.status_service.ListSubscribers, ListSubscribersRequest()
        )
    except ClientError as error:
        return error
    return answer

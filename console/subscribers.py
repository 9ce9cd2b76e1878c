"""The open streams of the feed, and how far behind each is."""

from console.page import Document, Page
from console.query import Query
from desk.v1.status_pb2 import ListSubscribersRequest, ListSubscribersResponse
from display.documents import as_json


class Subscribers(Page):
    """The subscribers of the worker that answers."""

    path = "/subscribers"
    title = "Subscribers"
    template = "subscribers.html"
    rows = "subscribers"
    columns = (
        "client", "address", "filter", "started_at", "revision", "lag", "lag_time_seconds",
    )  # fmt: skip

    async def document(self, query: Query) -> Document:
        """Return the streams, the furthest behind first."""
        client = self.site.client
        answer: ListSubscribersResponse = await client.call(
            client.status_service.ListSubscribers, ListSubscribersRequest()
        )
        return as_json(answer)

"""Callbacks: the feed as it comes, and what stands rejected."""

from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any

from console.page import Document, LivePage, Outdated, Page, Piece
from console.query import Query, names_of
from desk.client import Update
from desk.v1.event_pb2 import EventFilter, EventType, RejectionReason, SessionRecord, Verdict
from desk.v1.event_service_pb2 import CountEventsRequest, EventCount, ListRejectionsRequest
from display.documents import as_json

ROWS = 50
"""Records on a page by default."""

MOST_ROWS = 500
"""Records that the feed's page holds; older ones leave it."""

BATCH = 100
"""Records of one piece of the live feed."""

UNCOUNTED = ("session", "agent", "user", "channel")
"""Filters with which the causes are those of the page: the service does not count by them."""

LOOK_BACK = 500
"""Revisions before the present in which the feed's page looks for records to begin with."""


class Rejections(Page):
    """Callbacks that stand rejected, newest first, and what they have in common."""

    path = "/rejections"
    title = "Rejections"
    template = "rejections.html"
    rows = "records"
    columns = (
        "event.received_at", "rejection_reason", "rejection_detail", "event.type_name",
        "event.session_id", "event.sdk_app_id", "state_before", "event.event_time",
        "event.revision",
    )  # fmt: skip
    reasons = names_of(RejectionReason)
    types = names_of(EventType)

    async def document(self, query: Query) -> Document:
        """Return one page of rejections, their causes by number, and the token of the next."""
        request = ListRejectionsRequest(
            filter=query.event_filter(),
            reasons=query.enums("reason", RejectionReason),  # type: ignore[arg-type]
            **query.paging(ROWS),
            omit_raw_body=True,
            omit_message=True,
        )
        client = self.site.client
        answer = await client.call(client.event_service.ListRejections, request)
        is_of_page = query.has(UNCOUNTED)
        counts = _of_page(answer.records) if is_of_page else await self._of_all(query)
        types, reasons = request.filter.types, request.reasons
        causes = [each for each in counts if not types or each.type in types]
        facets: Counter[str | int] = Counter()
        for each in map(as_json, causes):
            facets[each["rejection_reason"]] += each["events"]
        shown = [each for each in causes if not reasons or each.rejection_reason in reasons]
        return {
            **as_json(answer),
            "is_of_page": is_of_page,
            "facets": [{"reason": reason, "events": n} for reason, n in facets.most_common()],
            "causes": [as_json(each) for each in sorted(shown, key=lambda each: -each.events)],
        }

    async def _of_all(self, query: Query) -> list[EventCount]:
        client = self.site.client
        request = CountEventsRequest(sdk_app_ids=query.numbers("app"))
        answer = await client.call(client.event_service.CountEvents, request)
        return [each for each in answer.counts if each.verdict == Verdict.VERDICT_REJECTED]


def _of_page(records: Iterable[SessionRecord]) -> list[EventCount]:
    numbers = Counter(
        (each.event.type, each.state_before, each.rejection_reason) for each in records
    )
    return [
        EventCount(type=kind, state_before=state, rejection_reason=reason, events=number)
        for (kind, state, reason), number in numbers.items()
    ]


class Feed(LivePage):
    """The newest records of the feed; they go on by themselves while the page is open."""

    path = "/feed"
    title = "Feed"
    template = "feed.html"
    event = "prepend"
    rows = "records"
    columns = (
        "revision", "ordinal", "event.event_time", "event.session_id", "event.type_name",
        "verdict", "rejection_reason", "state_before", "state_after", "event.agent_id",
        "event.client_user_id", "event.received_at",
    )  # fmt: skip
    types = names_of(EventType)
    verdicts = names_of(Verdict)
    most = MOST_ROWS
    look_back = LOOK_BACK

    async def document(self, query: Query) -> Document:
        """Return the newest records, the newest first."""
        rows = query.number("rows", ROWS, most=MOST_ROWS)
        head = await self._head()
        revision = max(0, head - LOOK_BACK)
        records: list[dict[str, Any]] = []
        updates = self._subscribe(query, revision, give_up_after=5)
        async with aclosing(updates) as pieces:
            async for update in pieces:
                revision = update.revision
                records = [*records, *map(as_json, update.records)][-rows:]
                if update.caught_up or revision >= head:
                    break
        return {"records": records[::-1], "revision": revision}

    def check(self, query: Query) -> None:
        _filter(query)

    async def live(self, query: Query, after: int | None) -> AsyncGenerator[Piece, None]:
        """Yield the rows of new records, the newest first."""
        head = await self._head()
        after = head if after is None else after
        if not head - LOOK_BACK <= after <= head:
            raise Outdated("too much has happened since this page was loaded")
        yield Piece(after, "")
        async with aclosing(self._subscribe(query, after)) as pieces:
            async for update in pieces:
                if update.forgotten:
                    raise Outdated("sessions have been forgotten")
                records = list(map(as_json, update.records))[::-1]
                html = self.site.render("feed_rows.html", records=records) if records else ""
                yield Piece(update.revision, html)

    async def _head(self) -> int:
        return (await self.site.client.status()).header.revision

    def _subscribe(self, query: Query, after: int, **options: Any) -> AsyncGenerator[Update, None]:
        return self.site.client.subscribe(
            after_revision=after,
            event_filter=_filter(query),
            skip_forgotten=True,
            max_batch=BATCH,
            omit_raw_body=True,
            omit_message=True,
            **options,
        )


def _filter(query: Query) -> EventFilter:
    """Return the filter of a query. Without verdicts it selects rejected records as well."""
    selected = query.event_filter()
    if not selected.verdicts:
        selected.verdicts.extend(number for number in Verdict.values() if number)
    return selected

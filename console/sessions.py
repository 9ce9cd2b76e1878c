"""The list of sessions, and one session."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp

from console.lanes import lanes_of
from console.page import Document, Page
from console.query import BadQuery, Query, names_of
from desk.client import NotFound
from desk.v1.event_pb2 import Event, SessionRecord
from desk.v1.session_pb2 import EndReason, SessionState
from desk.v1.session_service_pb2 import ListSessionsRequest
from display.documents import as_json

ROWS = 50
"""Sessions on a page by default."""

MAX_CALLBACKS = 2_000
"""Callbacks of one session that its page shows: the last ones."""

MAX_BODIES = 4 * 1024 * 1024
"""Bytes of their bodies, likewise."""

ORDERS = {
    "begun_at desc": "begun, newest first",
    "begun_at": "begun, oldest first",
    "last_event_at desc": "last event, newest first",
    "last_event_at": "last event, oldest first",
    "ended_at desc": "ended, newest first",
    "ended_at": "ended, oldest first",
    "state_since": "longest in its state first",
    "state_since desc": "shortest in its state first",
}
"""Orders of the list, with words for people."""

RATINGS = {"1": "1 star", **{str(n): f"{n} stars" for n in range(2, 6)}, "0": "not rated"}

MORE = (
    *("ever_agent", "rating", "min_forwards", "min_rejected", "never_answered"),
    *("ended_since", "ended_until", "active_since", "active_until"),
)
"""Filters that the page has folded while none of them is set."""


class Sessions(Page):
    """Sessions that a filter selects, page by page."""

    path = "/sessions"
    title = "Sessions"
    template = "sessions.html"
    rows = "sessions"
    columns = (
        "session_id", "sdk_app_id", "state", "end_reason", "client_user_id", "channel_type",
        "agent_id", "begun_at", "ended_at", "last_event_at", "queue_wait_seconds",
        "first_response_seconds", "handle_time_seconds", "satisfaction", "forwards",
        "rejected_events", "revision", "state_since", "answered_at", "agent_ids",
    )  # fmt: skip
    states = names_of(SessionState)
    end_reasons = ("NONE", *names_of(EndReason))
    orders = ORDERS
    ratings = RATINGS
    more = MORE

    async def document(self, query: Query) -> Document:
        """Return one page of sessions, and the token of the next."""
        request = ListSessionsRequest(
            filter=query.session_filter(),
            order_by=query.text("order"),
            **query.paging(ROWS),
        )
        client = self.site.client
        answer = await client.call(client.session_service.ListSessions, request)
        return await asyncio.to_thread(as_json, answer)


class OneSession(Page):
    """One session: its states over time, and every callback with its verdict."""

    path = "/session"
    title = "Session"
    template = "session.html"
    rows = "records"
    columns = (
        "event.event_time", "event.type_name", "verdict", "rejection_reason", "rejection_detail",
        "state_before", "state_after", "event.received_at", "late_by_seconds", "event.revision",
        "revision", "event.agent_id",
    )  # fmt: skip

    async def document(self, query: Query) -> Document:
        """Return the session, as of a revision or a time if asked for, and its callbacks."""
        session_id = query.text("id")
        if not session_id:
            raise BadQuery("id: name the session")
        app = query.number("app")
        as_of, time = query.number("as_of"), query.time("as_of_time")
        if as_of and time:
            raise BadQuery("as_of_time: name a revision or a time, not both")
        explanation = await self.site.client.explain_session(
            session_id, sdk_app_id=app, omit_message=True
        )
        last, omitted, bodies_omitted = await _last_of(explanation.records)
        records = await asyncio.to_thread(
            lambda: [
                {**as_json(each), "came_later": _is_later(each.event, as_of, time)} for each in last
            ]
        )
        session = as_json(explanation.session) if explanation.session else None
        if is_past := bool(as_of or time):
            session, as_of = await self._as_of(session_id, app, as_of, time)
        return {
            "session_id": session_id,
            "sdk_app_id": app or (records[0]["event"]["sdk_app_id"] if records else 0),
            "session": session,
            "records": records,
            "omitted": omitted,
            "bodies_omitted": bodies_omitted,
            "is_past": is_past,
            "as_of": as_of,
            "as_of_time": time.ToJsonString() if time else "",
            **_places(last, as_of if is_past else explanation.revision),
            "revision": explanation.revision,
            "lanes": lanes_of(records),
        }

    async def _as_of(
        self, session_id: str, app: int, revision: int, time: Timestamp | None
    ) -> tuple[Document | None, int]:
        """Return the session at a revision or a time, and its revision then.

        There is no session if it had not begun by then; at a time, the revision is 0.
        """
        try:
            found = await self.site.client.get_session(
                session_id,
                sdk_app_id=app,
                as_of_revision=revision,
                as_of_time=time.ToDatetime(UTC) if time else None,
            )
        except NotFound:
            return None, revision
        return as_json(found.session), found.revision


def _places(records: Iterable[SessionRecord], shown: int) -> Document:
    """Return the revisions of callbacks, and those next to the one that is shown; 0: none."""
    revisions = sorted({record.event.revision for record in records})
    return {
        "revisions": revisions,
        "earlier": max((each for each in revisions if each < shown), default=0),
        "later": min((each for each in revisions if each > shown), default=0),
    }


def _is_later(event: Event, as_of: int, time: Timestamp | None) -> bool:
    """Return True if a callback came after a revision or a time; not without either."""
    if time:
        return event.received_at.ToMilliseconds() > time.ToMilliseconds()
    return 0 < as_of < event.revision


async def _last_of(
    explained: AsyncIterator[SessionRecord],
) -> tuple[deque[SessionRecord], int, int]:
    """Return the last callbacks, the number of those before, and how many have lost their body."""
    records: deque[SessionRecord] = deque()
    omitted = bodies_omitted = size = 0
    async for record in explained:
        records.append(record)
        size += len(record.event.raw_body)
        if len(records) > MAX_CALLBACKS:
            size -= len(records.popleft().event.raw_body)
            omitted += 1
            bodies_omitted = max(0, bodies_omitted - 1)
        while size > MAX_BODIES:
            oldest = records[bodies_omitted].event
            size -= len(oldest.raw_body)
            oldest.ClearField("raw_body")
            bodies_omitted += 1
    return records, omitted, bodies_omitted

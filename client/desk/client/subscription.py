"""The position of a subscription in the feed, and the updates that move it.

Knows the contract in event_service.proto, and nothing of channels.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from desk.client.errors import ClientError, JournalMismatch
from desk.v1.event_pb2 import Forgotten, SessionRecord
from desk.v1.event_service_pb2 import SubscribeRequest, SubscribeResponse
from desk.v1.session_pb2 import Session


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """One message of the feed. Without records or sessions it marks progress only.

    Attributes:
        journal_id: the journal that `revision` counts in.
        revision: the position to resume from. Store it with `journal_id` *after* you have handled
            this update, best in the same transaction, and pass both to `Client.subscribe` after
            a restart. With `sessions_first`, store nothing before `sessions_complete`.
        records: ascending by (revision, ordinal); none was shown before.
        sessions: part of the current sessions, with `sessions_first`.
        sessions_complete: true in the last part of them.
        forgotten: sessions that were removed for good; delete your copies. None in most updates.
        caught_up: the stream has reached the present; what follows is live.
        fell_behind: this client reads more slowly than events come; `caught_up` will follow.
        resumed: the first update after the connection was lost. If `sessions_first` was not
            complete, the sessions come again from the start: drop those received before.
        dropped: how many records the service repeated; they are not in `records`.
    """

    journal_id: str
    revision: int
    records: Sequence[SessionRecord] = ()
    sessions: Sequence[Session] = ()
    sessions_complete: bool = False
    forgotten: Forgotten | None = None
    caught_up: bool = False
    fell_behind: bool = False
    resumed: bool = False
    dropped: int = 0


class Position:
    """The place of a subscription in the feed: the next request, and the last record shown."""

    def __init__(self, request: SubscribeRequest) -> None:
        self._request = request
        self._last_shown = (0, 0)

    def request(self) -> SubscribeRequest:
        """Return the request that goes on from here."""
        return self._request

    def take(self, response: SubscribeResponse, *, resumed: bool) -> Update:
        """Move on by one message."""
        fresh = self._fresh(response.records.records)
        self._move(response)
        return Update(
            journal_id=response.header.journal_id,
            revision=response.header.revision,
            records=fresh,
            sessions=response.sessions.sessions,
            sessions_complete=response.sessions.complete,
            forgotten=response.forgotten if response.HasField("forgotten") else None,
            caught_up=response.HasField("caught_up"),
            fell_behind=response.HasField("fell_behind"),
            resumed=resumed,
            dropped=len(response.records.records) - len(fresh),
        )

    def is_ahead(self, error: ClientError) -> bool:
        """Return True if this service lags behind the one that the position comes from.

        It is to be asked again. Newer services say REVISION_NOT_REACHED, which is `Retryable`.
        """
        return error.reason == "REVISION_IN_FUTURE" and bool(self._request.journal_id)

    def _fresh(self, records: Sequence[SessionRecord]) -> Sequence[SessionRecord]:
        if records and _place(records[0]) <= self._last_shown:
            records = [record for record in records if _place(record) > self._last_shown]
        if records:  # ascending: all records after a fresh one are fresh
            self._last_shown = _place(records[-1])
        return records

    def _move(self, response: SubscribeResponse) -> None:
        expected, received = self._request.journal_id, response.header.journal_id
        if expected and received != expected:
            raise JournalMismatch(f"the stream changed from journal {expected} to {received}")
        self._request.journal_id = received
        if self._request.sessions_first and not response.sessions.complete:
            return  # there is nothing to resume from before all sessions are here
        self._request.sessions_first = False
        self._request.after_revision = response.header.revision
        # An open stream goes on where something was forgotten. So does one that broke.
        self._request.skip_forgotten = True


def _place(record: SessionRecord) -> tuple[int, int]:
    return record.revision, record.ordinal


async def follow(
    position: Position, responses: AsyncGenerator[tuple[SubscribeResponse, bool], None]
) -> AsyncGenerator[Update, None]:
    """Yield the updates of a stream of `reconnecting` that is opened at the position."""
    async with aclosing(responses):
        async for response, resumed in responses:
            yield position.take(response, resumed=resumed)

"""Methods about events: the feed, and the callbacks that were rejected."""

from collections.abc import AsyncGenerator, Iterable

from desk.client.connection import Connection
from desk.client.streams import SILENCE
from desk.client.subscription import Position, Update, follow
from desk.v1.event_pb2 import EventFilter, RejectionReason, SessionRecord
from desk.v1.event_service_pb2 import ListRejectionsRequest, SubscribeRequest


class EventMethods(Connection):
    """Methods of `EventService`."""

    def subscribe(
        self,
        *,
        after_revision: int | None = None,
        journal_id: str = "",
        event_filter: EventFilter | None = None,
        include_session: bool = False,
        sessions_first: bool = False,
        max_batch: int = 0,
        omit_raw_body: bool = False,
        omit_message: bool = False,
        skip_forgotten: bool = False,
        silence: float = SILENCE,
        give_up_after: float | None = None,
    ) -> AsyncGenerator[Update, None]:
        """Yield the feed: each record once, in order, without gaps, across any reconnects.

        Endless. Leave it with `break` inside `contextlib.aclosing`, or by cancelling the task:
        this cancels the call on the service, too.

        Args:
            after_revision: exclusive; 0 = everything that is kept; None = from now on.
            journal_id: the journal that `after_revision` counts in; "" = not checked.
            event_filter: None = all records that were accepted or not recognised.
            include_session: put the session after its revision into each record.
            sessions_first: first the sessions as they are now, then their changes. Not together
                with `after_revision`.
            max_batch: records per update, at most 1,000; 0 = 500.
            omit_raw_body: leave `Event.raw_body` out of the records.
            omit_message: leave `Event.message` out of the records.
            skip_forgotten: resume anywhere, although records of forgotten sessions are missing.
            silence: seconds without a message after which to connect again.
            give_up_after: seconds without a message after which to raise; None = never.

        Raises:
            OutOfRange: the records after the position are no longer kept, or the service has not
                reached it.
            JournalMismatch: the service has another journal.
            InvalidRequest, Denied, Failed: the service refuses the request for good.
            Retryable: nothing came for `give_up_after` seconds.
        """
        request = SubscribeRequest(
            after_revision=after_revision,
            journal_id=journal_id,
            filter=event_filter,
            include_session=include_session,
            sessions_first=sessions_first,
            max_batch=max_batch,
            omit_raw_body=omit_raw_body,
            omit_message=omit_message,
            skip_forgotten=skip_forgotten,
        )
        position = Position(request)
        responses = self._stream(
            self.event_service.Subscribe,
            position.request,
            is_temporary=position.is_ahead,
            silence=silence,
            give_up_after=give_up_after,
        )
        return follow(position, responses)

    async def list_rejections(
        self,
        event_filter: EventFilter | None = None,
        *,
        reasons: Iterable[RejectionReason.ValueType] = (),
        page_size: int = 0,
        omit_raw_body: bool = False,
        omit_message: bool = False,
    ) -> AsyncGenerator[SessionRecord, None]:
        """Yield the callbacks that stand rejected now, newest first, page after page.

        Args:
            event_filter: None = all; its `verdicts` must be empty.
            reasons: any of these is enough; none = all.
            page_size: records per call, 1 to 1,000; 0 = 100.
            omit_raw_body: leave `Event.raw_body` out of the records.
            omit_message: leave `Event.message` out of the records.
        """
        request = ListRejectionsRequest(
            filter=event_filter,
            reasons=list(reasons),
            page_size=page_size,
            omit_raw_body=omit_raw_body,
            omit_message=omit_message,
        )
        async for page in self._pages(self.event_service.ListRejections, request):
            for record in page.records:
                yield record

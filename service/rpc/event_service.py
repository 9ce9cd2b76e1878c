"""desk.v1.EventService: the feed, and rejected callbacks."""

from desk.v1.event_service_pb2 import (
    CountEventsRequest,
    CountEventsResponse,
    EventCount,
    ListRejectionsRequest,
    ListRejectionsResponse,
    SubscribeRequest,
)
from service.positions import last_of, position_of
from service.rpc import reads, requests, responses
from service.rpc.calls import Call
from service.rpc.checks import checking
from service.rpc.errors import CallRefused, ErrorReason, quoted
from service.rpc.live_feed import LiveFeed
from service.rpc.page_tokens import PageTokens
from service.rpc.responses import BatchFormat
from service.rpc.revisions import check_kept, in_future, not_reached, reach
from service.rpc.subscription import Stream
from service.view.reader import Reader
from service.view.readers import Readers

END = position_of(1 << 42)
"""A position after every record."""


class EventService:
    """Answers from the view; live from the feed."""

    def __init__(self, readers: Readers, feed: LiveFeed) -> None:
        self._readers = readers
        self._feed = feed

    async def Subscribe(self, request: SubscribeRequest, call: Call) -> None:
        """Stream the feed, as serialised SubscribeResponses."""
        selection, max_batch = requests.subscription(request)
        batch_format = BatchFormat(max_batch, request.include_session)
        start = await self._start(request)
        with self._feed.filter_group(selection) as group:
            stream = Stream(self._feed, self._readers, group, call, batch_format)
            with self._feed.places.listed(stream.place):
                if request.sessions_first:
                    await stream.send_sessions(start)
                await stream.run(last_of(start))

    async def ListRejections(self, request: ListRejectionsRequest, call: Call) -> bytes:
        """Return the records that stand rejected, newest first."""
        with checking() as check:
            selection = requests.rejections_selection(check, request)
            size = check.page_size(request.page_size)
        tokens = PageTokens("ListRejections", self._feed.journal_id, selection, numbers=1)
        (before,) = tokens.place(request.page_token) or (END,)
        progress, (rows, following) = await self._readers.questions.run(
            call.caller, reads.in_snapshot, Reader.rejections, selection, before, size
        )
        token = tokens.token((following,) if following else None)
        rest = ListRejectionsResponse(next_page_token=token)
        return responses.answer(responses.header_of(progress), [row[1] for row in rows], rest)

    async def CountEvents(self, request: CountEventsRequest, call: Call) -> CountEventsResponse:
        """Count all callbacks by what was made of them."""
        with checking() as check:
            apps = check.apps("sdk_app_ids", request.sdk_app_ids)
        progress, rows = await self._readers.questions.run(
            call.caller, reads.in_snapshot, Reader.event_counts, apps
        )
        return CountEventsResponse(
            header=responses.header_of(progress),
            counts=[
                EventCount(
                    type=kind,
                    state_before=state,
                    verdict=verdict,
                    rejection_reason=reason,
                    events=events,
                )
                for kind, state, verdict, reason, events in rows
            ],
        )

    async def _start(self, request: SubscribeRequest) -> int:
        """Return the revision after which the stream begins."""
        reader = self._readers.inline
        progress = reader.progress()
        if request.journal_id and request.journal_id != progress.journal_id:
            raise CallRefused(
                ErrorReason.JOURNAL_MISMATCH,
                f"after_revision counts in journal {quoted(request.journal_id)}, this service in "
                f'"{progress.journal_id}": start over with sessions_first (`desk watch`: delete '
                "the checkpoint file)",
                journal_id=progress.journal_id,
            )
        if not request.HasField("after_revision"):
            return progress.applied_revision
        if not request.after_revision:
            return progress.begins_at - 1
        after, oldest = request.after_revision, progress.oldest_revision
        if request.skip_forgotten:
            oldest = progress.begins_at
        remedy = "; skip_forgotten resumes all the same" * (after >= progress.begins_at)
        check_kept(after, oldest, progress.journal_id, remedy)
        if not await reach(self._feed, reader, after, self._feed.limits.revision_seconds):
            applied = reader.progress().applied_revision
            raise (not_reached if request.journal_id else in_future)(after, applied)
        return after

"""desk.v1.EventService: the feed, and what was rejected."""

from desk.v1.event_service_pb2 import ListRejectionsRequest, SubscribeRequest

from service.positions import last_of, position_of
from service.rpc import frames, freshness, pages, requests, snapshot
from service.rpc.calls import Call
from service.rpc.errors import Reason, Refused, quoted
from service.rpc.feed import Feed
from service.rpc.stream import Stream, Wish, check_kept
from service.view.progress import Progress
from service.view.reader import Reader, Row
from service.view.readers import Readers
from service.view.selection import EventSelection, SnapshotSelection


class EventService:
    """Answers from the view; live from the feed."""

    def __init__(self, readers: Readers, feed: Feed) -> None:
        self._readers = readers
        self._feed = feed

    async def Subscribe(self, request: SubscribeRequest, call: Call) -> None:  # noqa: N802
        """Stream the feed, as serialised SubscribeResponses."""
        selection, max_batch = requests.subscription(request)
        wish = Wish(selection=selection, max_batch=max_batch, with_session=request.include_session)
        start = await self._start(request)
        with self._feed.filter_group(selection) as group:
            stream = Stream(self._feed, self._readers, group, call, wish=wish)
            if request.sessions_first:
                await self._send_sessions(stream, selection, start)
            await stream.run(last_of(start))

    async def ListRejections(  # noqa: N802
        self, request: ListRejectionsRequest, call: Call
    ) -> bytes:
        """Return the records that stand rejected, newest first."""
        check = requests.Check()
        selection = requests.rejections_selection(check, request)
        size = check.size(
            "page_size", request.page_size, default=requests.DEFAULT_PAGE, most=requests.MAX_PAGE
        )
        check.done()
        bound_to = ("ListRejections", self._feed.journal_id, selection)
        place = pages.places(request.page_token, request=bound_to, count=1)
        before = place[0] if place else position_of(1 << 42)
        read = self._readers.questions.run(call.caller, _rejections, selection, before, size)
        progress, rows, following = await read
        token = pages.token((following,), request=bound_to) if following else ""
        return frames.rejections(frames.header_of(progress), rows, token)

    async def _start(self, request: SubscribeRequest) -> int:
        """The revision after which the stream begins."""
        reader = self._readers.inline
        progress = reader.progress()
        if request.journal_id and request.journal_id != progress.journal_id:
            raise Refused(
                Reason.JOURNAL_MISMATCH,
                f"after_revision counts in journal {quoted(request.journal_id)}, this service in "
                f'"{progress.journal_id}": start over with sessions_first (`desk watch`: delete '
                "the checkpoint file)",
                journal_id=progress.journal_id,
            )
        if not request.HasField("after_revision"):
            return progress.applied_revision
        after = request.after_revision or progress.oldest_revision - 1
        check_kept(after, progress.oldest_revision)
        if not await freshness.reach(self._feed, reader, after, freshness.REVISION_WAIT):
            raise freshness.in_future(after, reader.progress().applied_revision)
        return after

    async def _send_sessions(
        self, stream: Stream, selection: EventSelection, revision: int
    ) -> None:
        stream.position = last_of(revision)
        chosen = requests.snapshot_selection(selection)
        reached, complete = 0, False
        while not complete and not self._feed.draining:
            part = await self._readers.catch_ups.run(
                stream.caller, _sessions, stream, chosen, reached, revision
            )
            reached, complete = part.reached, part.reached >= revision
            if part.sessions or complete or stream.is_due():
                message = frames.sessions(stream.header(), part.sessions, complete=complete)
                async with self._feed.sending(stream.caller, len(message)):
                    await stream.send(message)


def _sessions(
    reader: Reader, stream: Stream, selection: SnapshotSelection, after: int, revision: int
) -> snapshot.Part:
    # How much is enough is known when the thread begins: many may have waited for it.
    return snapshot.read(reader, selection, after, revision, stream.part_bytes)


def _rejections(
    reader: Reader, selection: EventSelection, before: int, size: int
) -> tuple[Progress, list[Row], int | None]:
    with reader.snapshot() as progress:
        return (progress, *reader.rejections(selection, before, size))

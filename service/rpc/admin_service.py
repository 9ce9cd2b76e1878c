"""desk.v1.AdminService: erases sessions and malformed callbacks, and lists what was erased."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import structlog

from desk.v1.admin_service_pb2 import (
    ForgetRequest,
    ForgetResponse,
    ListForgottenRequest,
    ListForgottenResponse,
)
from desk.v1.event_service_pb2 import SubscribeResponse
from service import forget_targets
from service.forget_targets import Append, Found, Start, Step, Target
from service.positions import last_of
from service.rpc import reads, requests
from service.rpc.calls import Call
from service.rpc.checks import checking
from service.rpc.errors import CallRefused, ErrorReason, log_error
from service.rpc.keys import Apps
from service.rpc.live_feed import LiveFeed
from service.rpc.page_tokens import PageTokens
from service.rpc.responses import header_of
from service.rpc.revisions import not_reached, reach
from service.view.reader import Reader
from service.view.readers import Readers
from service.view.selection import EventSelection

_log = structlog.get_logger()


class AdminService:
    """Chooses from the view what to forget, and appends FORGET entries to the journal."""

    def __init__(self, readers: Readers, feed: LiveFeed, apps: Apps, append: Append) -> None:
        self._readers = readers
        self._feed = feed
        self._apps = apps
        self._append = append
        self._thread = ThreadPoolExecutor(1, "forget")

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def Forget(self, request: ForgetRequest, call: Call) -> None:
        """Forget step by step, as serialised ForgetResponses."""
        target = requests.forget_target(request, self._apps)
        answer = ForgetResponse()
        with _audited(request, target.sdk_app_ids[0], call, answer):
            start: Start | None = Start()
            while start:
                step = await self._readers.heavy.run(
                    call.caller, forget_targets.step, target, start, _now()
                )
                start = step.following
                _add(answer, step)  # before: a call that is cancelled forgets this step as well
                if not request.dry_run:
                    await self._forget_step(target, step, call, answer)
                answer.complete = start is None
                answer.header.CopyFrom(header_of(self._readers.inline.progress()))
                await call.write(answer)

    async def ListForgotten(
        self, request: ListForgottenRequest, call: Call
    ) -> ListForgottenResponse:
        """Return a page of the FORGET entries that were applied."""
        with checking() as check:
            selection = EventSelection(sdk_app_ids=check.apps("sdk_app_ids", request.sdk_app_ids))
            revision = check.not_negative("after_revision", request.after_revision)
            size = check.page_size(request.page_size)
        tokens = PageTokens("ListForgotten", self._feed.journal_id, selection, revision, numbers=1)
        applied = self._readers.inline.progress().applied_revision
        (after,) = tokens.place(request.page_token) or (last_of(min(revision, applied)),)
        progress, (rows, following) = await self._readers.questions.run(
            call.caller, reads.in_snapshot, Reader.forget_entries, selection, after, size
        )
        return ListForgottenResponse(
            header=header_of(progress),
            forgotten=(SubscribeResponse.FromString(row[1]).forgotten for row in rows),
            next_page_token=tokens.token((following,) if following else None),
        )

    async def _forget_step(
        self, target: Target, step: Step, call: Call, answer: ForgetResponse
    ) -> None:
        """Forget what a step has found, and what came meanwhile."""
        revisions = await self._forget(step.found)
        missed = await self._readers.heavy.run(
            call.caller, forget_targets.missed, target, step.found, max(revisions, default=0)
        )
        _add(answer, missed)
        answer.forget_revisions[:] = [*revisions, *await self._forget(missed.found)]

    async def _forget(self, found: list[Found]) -> list[int]:
        """Append entries that forget what was found, wait until they are applied; return them."""
        loop = asyncio.get_running_loop()
        try:
            revisions = await loop.run_in_executor(
                self._thread, forget_targets.forget, found, self._append, _now()
            )
        except Exception as error:  # the journal's errors; rpc does not import them
            log_error("warning", "journal_not_writable", "Forget", error)
            raise CallRefused(
                ErrorReason.JOURNAL_NOT_WRITABLE, "the journal takes no entry just now; try again"
            ) from None
        reader, seconds = self._readers.inline, self._feed.limits.forget_seconds
        if revisions and not await reach(self._feed, reader, revisions[-1], seconds):
            raise not_reached(revisions[-1], reader.progress().applied_revision)
        return revisions


@contextmanager
def _audited(
    request: ForgetRequest, sdk_app_id: int, call: Call, answer: ForgetResponse
) -> Iterator[None]:
    """Log who forgets how much, and how that ended. Ids of persons must not get into the log."""
    log = _log.bind(
        by=request.WhichOneof("target"),
        sdk_app_id=sdk_app_id,
        dry_run=request.dry_run,
        peer=call.caller,
        client=call.grant.client,
        key_id=call.grant.key_id,
    )
    log.info("forgetting_begins")
    try:
        yield
    finally:
        log.info(
            "forgetting_ends",
            sessions=answer.sessions,
            malformed=answer.malformed,
            complete=answer.complete,
        )


def _add(answer: ForgetResponse, step: Step) -> None:
    """Add what a step has found to the totals."""
    sessions, malformed = step.counts()
    answer.sessions += sessions
    answer.malformed += malformed
    if step.found:
        first = min(each.first for each in step.found)
        answer.first_revision = min(first, answer.first_revision or first)
        answer.last_revision = max(answer.last_revision, *(each.last for each in step.found))


def _now() -> int:
    return time.time_ns() // 1_000_000

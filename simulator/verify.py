"""Reads the sessions and records of a run over the public API, and compares them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Protocol, TypeVar

import msgspec

from desk.client import Client, NotFound, Unavailable, Update
from desk.v1.event_pb2 import EventFilter, SessionRecord, Verdict
from desk.v1.session_pb2 import SessionKey
from desk.v1.status_pb2 import GetStatusResponse
from display.texts import count_of
from simulator.callbacks import Made
from simulator.comparison import (
    FoundCallback,
    compare_callback,
    compare_explanation,
    compare_session,
    label,
    read_record,
)
from simulator.ledger import Ledger
from simulator.report import Report
from simulator.sender import Fate

ROUNDS = 2
"""Signs of life after which the follower has read the journal up to the last answer: the first may
end a round that began before that answer."""

PATIENCE = 30.0
"""Seconds without progress after which the service counts as stuck."""

POLL_EVERY = 0.1
"""Seconds between two calls of GetStatus."""

MAX_EXPLAINED = 200
"""Sessions whose explanation is compared, at most: each takes a call."""

OnProgress = Callable[[int, int], None]
"""Called with the revision of the view and the revision to be reached."""

Answer = TypeVar("Answer")


class Repeat(Protocol):
    """Makes calls that only read, again while the service cannot be reached."""

    async def __call__(self, call: Callable[[], Awaitable[Answer]]) -> Answer: ...


class Start(msgspec.Struct, frozen=True):
    """The position of the feed before the run."""

    journal_id: str
    revision: int


class Stuck(Exception):
    """The service makes no progress."""


async def note_start(client: Client) -> Start:
    """Return the present position of the feed."""
    header = (await client.status()).header
    return Start(header.journal_id, header.revision)


async def verify(
    client: Client,
    ledger: Ledger,
    start: Start,
    *,
    on_progress: OnProgress = lambda _reached, _head: None,
    patience: float = PATIENCE,
    poll_every: float = POLL_EVERY,
) -> Report:
    """Wait until the view has all callbacks of a run, and compare it with the ledger.

    Args:
        client: of the service.
        ledger: the callbacks sent.
        start: the position before the run.
        on_progress: called while the view catches up.
        patience: seconds without progress, of the follower or the view, until `Stuck`.
        poll_every: seconds between two looks at the service's status.

    Raises:
        Stuck: the service made no progress.
        ClientError: a call failed.
    """
    report = Report()
    repeat: Repeat = partial(_repeat, patience=patience, poll_every=poll_every)
    head = await _CatchingUp(client, repeat, patience, poll_every, on_progress).wait()
    found = await _read_feed(client, ledger, start, head, report, patience)
    incomplete = _incomplete_sessions(ledger, found)
    for identity, sent in ledger.callbacks.items():
        whole_session = sent.callback.session_id not in incomplete
        compare_callback(report, sent, found.get(identity), whole_session=whole_session)
    whole = [session_id for session_id in ledger.sessions if session_id not in incomplete]
    report.skipped = len(incomplete)
    await _compare_sessions(client, repeat, ledger, whole, found, report)
    await _compare_explanations(client, repeat, ledger, whole, report)
    return report


async def _repeat(
    call: Callable[[], Awaitable[Answer]], *, patience: float, poll_every: float
) -> Answer:
    """Wait for a service that restarts."""
    clock = asyncio.get_running_loop().time
    until = clock() + patience
    while True:
        try:
            return await call()
        except Unavailable:
            if clock() > until:
                raise
        await asyncio.sleep(poll_every)


class _CatchingUp:
    """The wait for a view that contains all acknowledged callbacks."""

    def __init__(
        self,
        client: Client,
        repeat: Repeat,
        patience: float,
        poll_every: float,
        on_progress: OnProgress,
    ) -> None:
        self._client = client
        self._repeat = repeat
        self._patience = patience
        self._poll_every = poll_every
        self._on_progress = on_progress
        self._clock = asyncio.get_running_loop().time

    async def wait(self) -> int:
        """Wait until the view contains the journal's present head. Return that revision."""
        await self._await_follower()
        status = await self._repeat(self._client.status)
        head, reached, moved_at = status.head_revision, status.header.revision, self._clock()
        while reached < head:
            stuck = f"the view stays at revision {reached}; the journal is at {head}"
            revision = (await self._next_status(moved_at, stuck)).header.revision
            if revision > reached:
                reached, moved_at = revision, self._clock()
            self._on_progress(reached, head)
        return head

    async def _await_follower(self) -> None:
        # `head_revision` is as old as the follower's last sign of life.
        seen, rounds, seen_at = (
            (await self._repeat(self._client.status)).follower_seen_at,
            0,
            self._clock(),
        )
        while rounds < ROUNDS:
            stuck = "the follower is silent: the view does not have all acknowledged callbacks yet"
            now = (await self._next_status(seen_at, stuck)).follower_seen_at
            if now != seen:
                seen, rounds, seen_at = now, rounds + 1, self._clock()

    async def _next_status(self, since: float, stuck: str) -> GetStatusResponse:
        if self._clock() - since > self._patience:
            raise Stuck(stuck)
        await asyncio.sleep(self._poll_every)
        return await self._repeat(self._client.status)


async def _read_feed(
    client: Client, ledger: Ledger, start: Start, head: int, report: Report, patience: float
) -> dict[str, FoundCallback]:
    """Return the callbacks of the run in the feed up to revision `head`, by identity."""
    reading = _Feed(ledger, report, start)
    updates = client.subscribe(
        after_revision=start.revision,
        journal_id=start.journal_id,
        event_filter=EventFilter(
            sdk_app_ids=[ledger.sdk_app_id],
            verdicts=[
                Verdict.VERDICT_ACCEPTED, Verdict.VERDICT_REJECTED, Verdict.VERDICT_UNRECOGNISED
            ],
        ),
        give_up_after=patience,
    )  # fmt: skip
    async with aclosing(updates):
        async for update in updates:
            reading.take(update)
            if update.revision >= head:
                break
    return reading.found


class _Feed:
    """The feed as it is read: checks its order, and keeps the callbacks of the run.

    Attributes:
        found: by identity.
    """

    def __init__(self, ledger: Ledger, report: Report, start: Start) -> None:
        self.found: dict[str, FoundCallback] = {}
        self._ledger = ledger
        self._report = report
        self._position = (start.revision, 1 << 31)
        self._resumed = False

    def take(self, update: Update) -> None:
        self._resumed |= update.resumed
        if update.dropped and not self._resumed:
            repeated = count_of(update.dropped, "record")
            self._report.differ(f"the feed repeats {repeated} before {update.revision}")
        for record in update.records:
            position = (record.revision, record.ordinal)
            if position <= self._position:
                before = self._position
                self._report.differ(f"the feed's order is broken: {position} comes after {before}")
            self._position = position
            self._keep(record)

    def _keep(self, record: SessionRecord) -> None:
        event = record.event
        identity = self._ledger.identify(event.raw_body)
        if identity not in self._ledger.callbacks:
            if event.session_id in self._ledger.sessions:
                self._report.differ(f"{label(record)} was never sent like this")
            return
        self._report.compare(f"{label(record)}, id", expected=identity, found=event.id)
        known = self.found.get(identity)
        self.found[identity] = read_record(record)
        if known and (not record.revised or known.event_revision != event.revision):
            again = f"also at revision {known.event_revision}"
            self._report.differ(f"{label(record)} is there twice, {again}")


def _incomplete_sessions(ledger: Ledger, found: dict[str, FoundCallback]) -> set[str]:
    """Return the sessions with a callback that the service may lack, and lacks."""
    return {
        sent.callback.session_id
        for identity, sent in ledger.callbacks.items()
        if identity not in found and sent.fate is not Fate.KEPT and sent.callback.session_id
    }


async def _compare_sessions(
    client: Client,
    repeat: Repeat,
    ledger: Ledger,
    whole: Sequence[str],
    found: dict[str, FoundCallback],
    report: Report,
) -> None:
    if not whole:
        return
    revisions = _last_revisions(ledger, found)
    keys = [SessionKey(sdk_app_id=ledger.sdk_app_id, session_id=each) for each in whole]
    answer = await repeat(lambda: client.batch_get_sessions(keys))
    sessions = {session.session_id: session for session in answer.sessions}
    for each in whole:
        compare_session(
            report, each, ledger.sessions[each], sessions.get(each), revisions.get(each, 0)
        )


def _last_revisions(ledger: Ledger, found: dict[str, FoundCallback]) -> dict[str, int]:
    """Return the last revision of each session's callbacks."""
    last: dict[str, int] = {}
    for identity, each in found.items():
        session_id = ledger.callbacks[identity].callback.session_id
        last[session_id] = max(last.get(session_id, 0), each.event_revision)
    return last


async def _explanation(client: Client, sdk_app_id: int, session_id: str) -> list[SessionRecord]:
    explanation = await client.explain_session(session_id, sdk_app_id=sdk_app_id)
    return [record async for record in explanation.records]


async def _compare_explanations(
    client: Client, repeat: Repeat, ledger: Ledger, whole: Sequence[str], report: Report
) -> None:
    """Compare the verdict on each callback at its place, for sessions spread over the run."""
    chosen = whole[:: len(whole) // MAX_EXPLAINED + 1]
    expected: dict[str, list[Made]] = {session_id: [] for session_id in chosen}
    for sent in ledger.callbacks.values():
        if sent.callback.session_id in expected:
            expected[sent.callback.session_id].append(sent.callback)
    for session_id, callbacks in expected.items():
        try:
            records = await repeat(partial(_explanation, client, ledger.sdk_app_id, session_id))
        except NotFound:
            report.differ(f"session {session_id}: there is nothing to explain")
            continue
        compare_explanation(report, session_id, callbacks, records)
        report.stories += 1

"""Reads the sessions and records of a run over the public API, and compares them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

import msgspec

from desk.client import Answer, Client, NotFound, Unavailable, Update
from desk.v1.event_pb2 import EventFilter, SessionRecord, Verdict
from desk.v1.session_pb2 import Session, SessionKey
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

PATIENCE = 30.0
"""Seconds without progress after which the service counts as stuck."""

POLL_EVERY = 0.1
"""Seconds between two attempts at a call."""

MAX_EXPLAINED = 200
"""Sessions whose explanation is compared, at most: each takes a call."""

_VERDICTS = [
    Verdict.VERDICT_ACCEPTED,
    Verdict.VERDICT_REJECTED,
    Verdict.VERDICT_UNRECOGNISED,
]

OnProgress = Callable[[int, int], None]
"""Called with the revision of the view and the revision to be reached."""

Result = TypeVar("Result")


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

    Behind a proxy, each call may be answered by another replica, and one may be behind the others.

    Args:
        client: of the service.
        ledger: the callbacks sent.
        start: the position before the run.
        on_progress: called while the view catches up.
        patience: seconds without progress until `Stuck`.
        poll_every: seconds between two attempts at a call.

    Raises:
        Stuck: the service made no progress.
        ClientError: a call failed.
    """
    report = Report()
    service = _Service(client, patience, poll_every)
    head = await _catch_up(service, ledger, on_progress)
    feed = _Feed(ledger, report, start)
    await feed.read(client, head, patience)
    found = feed.found
    incomplete = _incomplete_sessions(ledger, found)
    for identity, sent in ledger.callbacks.items():
        whole_session = sent.callback.session_id not in incomplete
        compare_callback(report, sent, found.get(identity), whole_session=whole_session)
    whole = [session_id for session_id in ledger.sessions if session_id not in incomplete]
    report.skipped, report.revision = len(incomplete), feed.revision
    await _compare_sessions(service, ledger, whole, feed, report)
    await _compare_explanations(service, ledger, whole, feed.revision, report)
    return report


class _Progress:
    """The time since something was last reached for the first time."""

    def __init__(self, patience: float) -> None:
        self._clock = asyncio.get_running_loop().time
        self._patience = patience
        self._reached: object = None
        self._since = self._clock()

    def ended(self, reached: object) -> bool:
        """Return True if this has been reached for longer than the patience."""
        if reached != self._reached:
            self._reached, self._since = reached, self._clock()
        return self._clock() - self._since > self._patience


class _Service:
    """The calls of a verification, which are repeated while a service restarts or is behind."""

    def __init__(self, client: Client, patience: float, poll_every: float) -> None:
        self._client = client
        self._patience = patience
        self._poll_every = poll_every

    def progress(self) -> _Progress:
        return _Progress(self._patience)

    async def status(self) -> GetStatusResponse:
        return await self._repeated(self._client.status)

    async def next_status(self) -> GetStatusResponse:
        await asyncio.sleep(self._poll_every)
        return await self.status()

    async def sessions(self, keys: Sequence[SessionKey], revision: int) -> Sequence[Session]:
        """Return sessions at a revision or later."""

        async def read() -> Sequence[Session]:
            answer = await self._client.batch_get_sessions(keys)
            _check_revision(answer, revision)
            return answer.sessions

        return await self._repeated(read)

    async def explanation(
        self, key: SessionKey, revision: int, doubt: _Progress
    ) -> list[SessionRecord]:
        """Return the records of a session at a revision or later.

        Raises:
            NotFound: no replica knows the session, also at the end of the doubt.
        """

        async def read() -> list[SessionRecord]:
            try:
                found = await self._client.explain_session(
                    key.session_id, sdk_app_id=key.sdk_app_id
                )
            except NotFound:
                if doubt.ended(None):
                    raise
                raise Stuck(f"session {key.session_id} is unknown to a replica") from None
            _check_revision(found, revision)
            return [record async for record in found.records]

        return await self._repeated(read)

    async def _repeated(self, call: Callable[[], Awaitable[Result]]) -> Result:
        progress = self.progress()
        while True:
            try:
                return await call()
            except (Unavailable, Stuck):
                if progress.ended(None):
                    raise
            await asyncio.sleep(self._poll_every)


def _check_revision(answer: Answer, revision: int) -> None:
    if answer.revision < revision:
        raise Stuck(f"a replica stays at revision {answer.revision}; others are at {revision}")


async def _catch_up(service: _Service, ledger: Ledger, on_progress: OnProgress) -> int:
    """Wait until the view contains the journal's present head; return that revision."""
    numbers = (number for sent in ledger.callbacks.values() for number in sent.revisions)
    status = await service.status()
    head = max(status.head_revision, *numbers, 0)
    reached, progress = status.header.revision, service.progress()
    while reached < head:
        if progress.ended(reached):
            raise Stuck(
                f"the view stays at revision {reached}; the journal is at {head}: "
                "it does not have all acknowledged callbacks yet"
            )
        reached = max(reached, (await service.next_status()).header.revision)
        on_progress(reached, head)
    return head


class _Feed:
    """The feed as it is read: checks its order, and keeps the callbacks of the run.

    Attributes:
        found: by identity.
        revision: up to which it was read.
    """

    def __init__(self, ledger: Ledger, report: Report, start: Start) -> None:
        self.found: dict[str, FoundCallback] = {}
        self.revision = start.revision
        self._ledger = ledger
        self._report = report
        self._journal_id = start.journal_id
        self._position = (start.revision, 1 << 31)
        self._resumed = False

    async def read(self, client: Client, head: int, patience: float) -> None:
        """Read up to `head`, and on while callbacks are missing that a gateway has in its spool.

        Raises:
            Stuck: `head` is not reached.
        """
        updates = client.subscribe(
            after_revision=self.revision,
            journal_id=self._journal_id,
            event_filter=EventFilter(sdk_app_ids=[self._ledger.sdk_app_id], verdicts=_VERDICTS),
            skip_forgotten=True,
            give_up_after=patience,
        )
        progress = _Progress(patience)
        spooled = self._ledger.spooled()
        async with aclosing(updates):
            async for update in updates:
                self._take(update)
                missing = spooled - self.found.keys()
                ended = progress.ended((min(self.revision, head), len(missing)))
                if self.revision >= head and (ended or not missing):
                    return
                if ended:
                    raise Stuck(f"the feed stays at revision {self.revision} of {head}")

    def _take(self, update: Update) -> None:
        self.revision = update.revision
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
        if update.forgotten and update.forgotten.sdk_app_id == self._ledger.sdk_app_id:
            self._report.forgotten += self._ledger.leave_out(update.forgotten.session_ids)
            kept = self.found.keys() & self._ledger.callbacks.keys()
            self.found = {identity: self.found[identity] for identity in kept}

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
    service: _Service, ledger: Ledger, whole: Sequence[str], feed: _Feed, report: Report
) -> None:
    if not whole:
        return
    revisions = _last_revisions(ledger, feed.found)
    keys = [SessionKey(sdk_app_id=ledger.sdk_app_id, session_id=each) for each in whole]
    found = await service.sessions(keys, feed.revision)
    sessions = {session.session_id: session for session in found}
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


async def _compare_explanations(
    service: _Service, ledger: Ledger, whole: Sequence[str], revision: int, report: Report
) -> None:
    """Compare the verdict on each callback at its place, for sessions spread over the run."""
    chosen = whole[:: len(whole) // MAX_EXPLAINED + 1]
    expected: dict[str, list[Made]] = {session_id: [] for session_id in chosen}
    for sent in ledger.callbacks.values():
        if sent.callback.session_id in expected:
            expected[sent.callback.session_id].append(sent.callback)
    doubt = service.progress()
    for session_id, callbacks in expected.items():
        key = SessionKey(sdk_app_id=ledger.sdk_app_id, session_id=session_id)
        try:
            records = await service.explanation(key, revision, doubt)
        except NotFound:
            report.differ(f"session {session_id}: there is nothing to explain")
            continue
        compare_explanation(report, session_id, callbacks, records)
        report.stories += 1

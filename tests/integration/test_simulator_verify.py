"""Verification against a service that is right, and against one that is wrong in one thing."""

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from desk.v1.event_pb2 import Event, Forgotten, RejectionReason, SessionRecord, Verdict
from desk.v1.event_service_pb2 import SubscribeRequest, SubscribeResponse
from desk.v1.session_pb2 import EndReason, Session, SessionState
from desk.v1.session_service_pb2 import (
    BatchGetSessionsRequest,
    BatchGetSessionsResponse,
    ExplainSessionResponse,
)
from simulator.callbacks import Made
from simulator.expectation import Expectation
from simulator.ledger import Ledger
from simulator.lives import Life, make_lives
from simulator.report import MAX_DETAILS, Report
from simulator.sender import Fate
from simulator.verify import Start, Stuck, verify
from tests.support.feed_server import JOURNAL_ID, FeedServer, connected, fail

APP = 1400000001

START = Start(JOURNAL_ID, 0)


POLL_EVERY = 0.002
"""Seconds."""

IMPATIENT = 1.0
"""Seconds of patience with what does not come."""


def lives(count: int) -> Iterator[Life]:
    return make_lives(count, seed=4, run="r", now=1_800_000_000_000, impossible=0.2, malformed=0.05)


def sent(count: int = 12) -> Ledger:
    """A run, all of which was acknowledged, with the revisions of `right`."""
    ledger = Ledger(APP)
    assert list(ledger.record(lives(count)))
    for revision, sent_callback in enumerate(ledger.callbacks.values(), 1):
        sent_callback.fate, sent_callback.revisions = Fate.KEPT, (revision,)
    return ledger


def record(ledger: Ledger, revision: int, callback: Made) -> SessionRecord:
    """Return the record of a callback in a service that is right."""
    event = Event(
        revision=revision,
        sdk_app_id=APP,
        session_id=callback.session_id,
        id=ledger.identify(callback.body),
        raw_body=callback.body,
    )
    if callback.session_id:
        event.event_time.FromMilliseconds(callback.at)
    return SessionRecord(
        revision=revision,
        event=event,
        verdict=Verdict.VERDICT_REJECTED if callback.reason else Verdict.VERDICT_ACCEPTED,
        rejection_reason=RejectionReason.Value(
            f"REJECTION_REASON_{callback.reason or 'UNSPECIFIED'}"
        ),
        state_before=state(callback.before),
        state_after=state(callback.after),
    )


def state(name: str) -> SessionState.ValueType:
    return SessionState.Value(f"SESSION_STATE_{'UNSPECIFIED' if name in ('', 'NEW') else name}")


def session(session_id: str, expected: Expectation, revision: int) -> Session:
    found = Session(session_id=session_id, revision=revision)
    for field in Expectation.__struct_fields__:
        value = getattr(expected, field)
        if field == "state":
            found.state = state(value)
        elif field == "end_reason":
            found.end_reason = EndReason.Value(f"END_REASON_{value or 'UNSPECIFIED'}")
        elif field == "agent_ids":
            found.agent_ids.extend(value)
        elif field.endswith(("_at", "_since")) or field in (
            "queue_wait",
            "first_response",
            "handle_time",
        ):
            if value is not None:
                getattr(found, field).FromMilliseconds(value)
        else:
            setattr(found, field, value)
    return found


def right(ledger: Ledger, count: int = 12) -> FeedServer:
    """A service that made of the run what it should."""
    callbacks = [callback for life in lives(count) for callback in life.callbacks]
    feed = [record(ledger, revision, each) for revision, each in enumerate(callbacks, 1)]
    stories: dict[str, list[SessionRecord]] = {session_id: [] for session_id in ledger.sessions}
    for each in feed:
        if each.event.session_id:
            stories[each.event.session_id].append(copy.deepcopy(each))
    sessions = [
        session(session_id, expected, stories[session_id][-1].revision)
        for session_id, expected in ledger.sessions.items()
        if expected
    ]
    return FeedServer(feed=feed, batch=100, sessions=sessions, stories=stories)


async def check(server: FeedServer, ledger: Ledger, *, patience: float = 20) -> Report:
    async with connected(server) as client:
        return await verify(client, ledger, START, patience=patience, poll_every=POLL_EVERY)


async def test_a_service_that_is_right_differs_in_nothing() -> None:
    ledger = sent()
    report = await check(right(ledger), ledger)
    assert report.details == []
    assert report.differences == 0
    assert report.sessions == 12
    assert report.callbacks == len(ledger.callbacks)
    assert report.rejected == sum(bool(p.callback.reason) for p in ledger.callbacks.values())


async def test_the_revision_of_every_answer_must_be_that_of_the_callback() -> None:
    ledger = sent()
    server = right(ledger)
    first, second, third, *_ = server.feed
    ledger.callbacks[first.event.id].revisions = (first.revision,)
    assert (await check(server, ledger)).differences == 0
    ledger.callbacks[second.event.id].revisions = (0,)
    ledger.callbacks[third.event.id].revisions = (third.revision, 99)
    assert (await check(server, ledger)).differences == 2


def append(server: FeedServer, change: Callable[[SessionRecord], None]) -> None:
    """Publish another record, made of the first."""
    other = copy.deepcopy(server.feed[0])
    other.revision = server.head + 1
    change(other)
    server.feed = [*server.feed, other]


def lose_a_callback(server: FeedServer) -> None:
    server.feed = [*server.feed[:5], *server.feed[6:]]


def double_a_callback(server: FeedServer) -> None:
    append(server, lambda other: setattr(other.event, "revision", other.revision))


def repeat_a_record(server: FeedServer) -> None:
    append(server, lambda _other: None)


def tamper_with_a_body(server: FeedServer) -> None:
    event = server.feed[0].event
    event.raw_body = event.raw_body.replace(b"@", b"?", 1)


def mistake_an_id(server: FeedServer) -> None:
    server.feed[0].event.id = "0" * 32


def mistake_a_verdict(server: FeedServer) -> None:
    server.feed[0].verdict = Verdict.VERDICT_UNRECOGNISED


def mistake_a_reason(server: FeedServer) -> None:
    rejected = next(each for each in server.feed if each.rejection_reason)
    rejected.rejection_reason = (
        RejectionReason.REJECTION_REASON_AFTER_END
        if rejected.rejection_reason != RejectionReason.REJECTION_REASON_AFTER_END
        else RejectionReason.REJECTION_REASON_NOT_BEGUN
    )


def revise_wrongly(server: FeedServer) -> None:
    def spoil(other: SessionRecord) -> None:
        other.revised, other.verdict = True, Verdict.VERDICT_UNRECOGNISED

    append(server, spoil)


def mistake_a_time(server: FeedServer) -> None:
    server.feed[0].event.event_time.nanos += 1_000_000


def mistake_a_state_on_the_way(server: FeedServer) -> None:
    server.stories[server.sessions[0].session_id][-1].state_before = state("CLOSING")
    server.stories[server.sessions[0].session_id][-1].state_after = state("QUEUED")


def forget_a_callback_in_a_story(server: FeedServer) -> None:
    server.stories[server.sessions[0].session_id].pop()


def exchange_two_in_a_story(server: FeedServer) -> None:
    story = max(server.stories.values(), key=len)
    story[1], story[2] = story[2], story[1]


def lose_a_session(server: FeedServer) -> None:
    server.sessions = server.sessions[1:]


def mistake_a_revision(server: FeedServer) -> None:
    server.sessions[0].revision += 1


@pytest.mark.parametrize(
    "fault",
    [
        lose_a_callback,
        double_a_callback,
        repeat_a_record,
        tamper_with_a_body,
        mistake_an_id,
        mistake_a_verdict,
        mistake_a_reason,
        revise_wrongly,
        mistake_a_time,
        mistake_a_state_on_the_way,
        forget_a_callback_in_a_story,
        exchange_two_in_a_story,
        lose_a_session,
        mistake_a_revision,
    ],
)
async def test_a_service_that_is_wrong_in_one_thing_is_found_out(
    fault: Callable[[FeedServer], None],
) -> None:
    ledger = sent()
    server = right(ledger)
    fault(server)
    assert (await check(server, ledger)).differences > 0


@pytest.mark.parametrize("field", Expectation.__struct_fields__)
async def test_a_session_that_is_wrong_in_one_field_is_found_out(field: str) -> None:
    ledger = sent()
    server = right(ledger)
    first = server.sessions[0]
    value: Any = getattr(first, field)
    if isinstance(value, str):
        setattr(first, field, value + "?")
    elif field == "agent_ids":
        first.agent_ids.append("?")
    elif field in ("state", "end_reason"):
        setattr(first, field, 5 if value != 5 else 4)
    elif isinstance(value, int):
        setattr(first, field, value + 1)
    else:
        value.FromMilliseconds(value.ToMilliseconds() + 1)
    report = await check(server, ledger)
    assert report.differences == 1
    assert field in report.details[0]


async def test_a_session_that_never_began_must_not_be_there() -> None:
    ledger = sent(60)
    server = right(ledger, 60)
    stray = next(name for name, expected in ledger.sessions.items() if expected is None)
    server.sessions = [*server.sessions, Session(session_id=stray)]
    report = await check(server, ledger)
    assert report.details == [f"session {stray}: it never began, but the service has it"]


async def test_a_session_that_is_forgotten_meanwhile_is_not_compared() -> None:
    ledger = sent()
    whole = right(ledger)
    gone = whole.sessions[0].session_id
    del whole.stories[gone]
    server = Forgetful(
        feed=[each for each in whole.feed if each.event.session_id != gone],
        sessions=whole.sessions[1:],
        stories=whole.stories,
        gone=gone,
    )
    report = await check(server, ledger)
    assert (report.differences, report.forgotten) == (0, 1)
    assert "forgotten meanwhile, not compared: 1 session" in report.as_text()
    assert all(request.skip_forgotten for request in server.requests)


@dataclass
class Forgetful(FeedServer):
    """A server that has forgotten a session."""

    gone: str = ""

    def _messages(self, request: SubscribeRequest) -> Iterator[SubscribeResponse]:
        first, *others = super()._messages(request)
        forgotten = Forgotten(sdk_app_id=APP, session_ids=[self.gone])
        yield first
        yield SubscribeResponse(header=first.header, forgotten=forgotten)
        yield from others


async def test_callbacks_without_an_answer_may_be_there_or_not() -> None:
    ledger = sent()
    server = right(ledger)
    missing = ledger.callbacks[server.feed[5].event.id]
    missing.fate = ledger.callbacks[server.feed[0].event.id].fate = Fate.UNKNOWN
    lose_a_callback(server)
    report = await check(server, ledger)
    assert (report.differences, report.unknown_kept, report.unknown_lost) == (0, 1, 1)
    assert report.skipped == 1
    assert "callbacks without an answer: 1 found, 1 not; 1 session not compared" in report.as_text()


async def test_a_callback_that_was_refused_must_not_be_there() -> None:
    ledger = sent()
    server = right(ledger)
    ledger.callbacks[server.feed[0].event.id].fate = Fate.REFUSED
    report = await check(server, ledger)
    assert report.differences == 1
    assert "refused, but in the feed" in report.details[0]


async def test_only_the_first_differences_are_told_and_all_are_counted() -> None:
    ledger = sent(40)
    for sent_callback in ledger.callbacks.values():
        sent_callback.revisions = (0,)
    report = await check(FeedServer(), ledger, patience=IMPATIENT)
    assert report.differences >= len(ledger.callbacks)
    assert len(report.details) == MAX_DETAILS
    assert f"… and {report.differences - MAX_DETAILS} more" in report.as_text()


async def test_a_view_that_stands_still_is_said_to_be_stuck() -> None:
    ledger = sent()
    server = right(ledger)
    server.ahead = 1
    with pytest.raises(Stuck, match=f"revision {server.head}; the journal"):
        await check(server, ledger, patience=IMPATIENT)


async def test_what_the_journal_does_not_say_yet_is_waited_for() -> None:
    ledger = sent()
    server = right(ledger)
    server.feed = server.feed[:-3]
    with pytest.raises(Stuck, match="does not have all acknowledged"):
        await check(server, ledger, patience=IMPATIENT)


class Spool(FeedServer):
    """A service whose journal gets the newest callbacks of a gateway's spool one by one, if ever.

    Then others come for ever.

    Attributes:
        newest: the records of these.
    """

    newest: list[SessionRecord]

    async def Subscribe(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        for message in self._messages(request):
            yield message
        while True:
            await asyncio.sleep(0.02)
            after = SubscribeRequest(after_revision=self.head)
            number = self.head + 1
            other = SessionRecord(revision=number, event=Event(revision=number))
            self.feed = [*self.feed, *(self.newest[:1] or [other])]
            del self.newest[:1]
            for message in self._messages(after):
                yield message


def with_spool(ledger: Ledger, newest: int) -> Spool:
    known = right(ledger)
    for each in known.feed[-newest:]:
        ledger.callbacks[each.event.id].revisions = ()
    server = Spool(
        feed=known.feed[:-newest], batch=100, sessions=known.sessions, stories=known.stories
    )
    server.newest = list(known.feed[-newest:])
    return server


async def test_callbacks_in_a_spool_are_waited_for() -> None:
    ledger = sent()
    assert (await check(with_spool(ledger, 3), ledger)).details == []


async def test_a_callback_that_never_leaves_the_spool_is_lost() -> None:
    ledger = sent()
    for patience in (IMPATIENT, 5, 20):  # on a busy machine a second may be too short for others
        server = with_spool(ledger, 3)
        del server.newest[1:2]
        report = await check(server, ledger, patience=patience)
        if sum("acknowledged, and lost" in each for each in report.details) == 1:
            break
    else:
        raise AssertionError(report.details)


class Replicas(FeedServer):
    """Two replicas behind a proxy that sends calls to each in turn. One of them begins empty."""

    calls = 0
    turns = 2
    behind_until = 8

    def _is_behind(self) -> bool:
        self.calls += 1
        return self.calls % self.turns == 0 and self.calls <= self.behind_until

    async def BatchGetSessions(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self._is_behind():
            return BatchGetSessionsResponse()
        return await super().BatchGetSessions(request, context)

    async def ExplainSession(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self._is_behind():
            if self.calls > self.behind_until / 2:
                return ExplainSessionResponse()
            await fail(context, grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
        return await super().ExplainSession(request, context)


@pytest.mark.parametrize("first", [0, 1])
async def test_a_replica_that_is_behind_is_asked_again(first: int) -> None:
    ledger = sent()
    known = right(ledger)
    server = Replicas(feed=known.feed, batch=100, sessions=known.sessions, stories=known.stories)
    server.calls = first
    assert (await check(server, ledger)).details == []
    assert server.calls > server.behind_until


async def test_a_replica_that_stays_behind_is_stuck() -> None:
    ledger = sent()
    known = right(ledger)
    server = Replicas(feed=known.feed, batch=100, sessions=known.sessions, stories=known.stories)
    server.turns, server.behind_until = 1, 1_000_000
    with pytest.raises(Stuck, match="a replica stays at revision 0; others are at"):
        await check(server, ledger, patience=IMPATIENT)


async def test_a_session_that_no_replica_can_explain_is_a_difference() -> None:
    ledger = sent()
    server = right(ledger)
    missing = server.sessions[0].session_id
    del server.stories[missing]
    for patience in (IMPATIENT, 5, 20):  # on a busy machine a second may be too short for others
        report = await check(server, ledger, patience=patience)
        if report.details == [f"session {missing}: there is nothing to explain"]:
            break
    else:
        raise AssertionError(report.details)


class SmallAnswers(FeedServer):
    """A service whose messages have room for a few sessions only."""

    async def BatchGetSessions(self, request: Any, context: Any) -> Any:  # noqa: N802
        first, rest = request.keys[:5], request.keys[5:]
        answer = await super().BatchGetSessions(BatchGetSessionsRequest(keys=first), context)
        answer.remaining.extend(rest)
        return answer


async def test_sessions_that_did_not_fit_into_an_answer_are_asked_for_again() -> None:
    ledger = sent()
    known = right(ledger)
    server = SmallAnswers(
        feed=known.feed, batch=100, sessions=known.sessions, stories=known.stories
    )
    report = await check(server, ledger)
    assert (report.details, report.sessions) == ([], 12)

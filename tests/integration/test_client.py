"""The client against a real gRPC server that breaks its streams."""

import asyncio
import contextlib
import doctest
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desk.client import (
    Client,
    ClientError,
    Denied,
    Failed,
    InvalidRequest,
    JournalMismatch,
    NotFound,
    OutOfRange,
    TooMany,
    Unavailable,
    Update,
)
from desk.v1.event_pb2 import SessionRecord
from desk.v1.session_pb2 import Session
from tests.support.feed_server import (
    JOURNAL_ID,
    Break,
    FeedServer,
    connected,
    records,
    serving,
)
from tests.support.loopback import reserved_port
from tests.support.waiting import PATIENCE

Status = grpc.StatusCode


async def until_caught_up(updates: AsyncIterator[Update]) -> list[Update]:
    got = []
    async with asyncio.timeout(PATIENCE):
        async for update in updates:
            got.append(update)
            if update.caught_up:
                break
    return got


def places(shown: Sequence[SessionRecord]) -> list[tuple[int, int]]:
    return [(record.revision, record.ordinal) for record in shown]


breaks = st.builds(
    Break,
    after=st.integers(0, 4),
    code=st.sampled_from(
        [Status.UNAVAILABLE, Status.INTERNAL, Status.RESOURCE_EXHAUSTED, Status.OK]
    ),
    reason=st.sampled_from(["", "SHUTTING_DOWN"]),
)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), max_size=12),
    batch=st.integers(1, 3),
    part=st.integers(1, 3),
    ends=st.lists(breaks, max_size=8),
    after=st.integers(0, 3),
)
def test_every_record_is_shown_once_and_in_order_wherever_the_stream_breaks(
    sizes: list[int], batch: int, part: int, ends: list[Break], after: int
) -> None:
    feed = records(*sizes)
    after = min(after, len(sizes))

    async def follow() -> list[Update]:
        server = FeedServer(feed=feed, batch=batch, part=part, breaks=list(ends))
        async with connected(server) as client:
            return await until_caught_up(client.subscribe(after_revision=after))

    got = asyncio.run(follow())
    shown = [record for update in got for record in update.records]
    assert places(shown) == [place for place in places(feed) if place[0] > after]


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=8), stop=st.integers(0, 12))
def test_a_consumer_that_stores_each_updates_revision_misses_nothing_when_it_starts_again(
    sizes: list[int], stop: int
) -> None:
    feed = records(*sizes)

    async def follow() -> list[SessionRecord]:
        kept: list[SessionRecord] = []
        position = 0
        async with connected(FeedServer(feed=feed)) as client:
            first = client.subscribe(after_revision=0)
            async with contextlib.aclosing(first):
                for _ in range(stop):
                    update = await anext(first)
                    kept += update.records
                    position = update.revision
                    if update.caught_up:
                        break
            for update in await until_caught_up(client.subscribe(after_revision=position)):
                kept += update.records
        return kept

    kept = asyncio.run(follow())
    assert sorted(set(places(kept))) == places(feed)


async def test_a_split_revision_that_breaks_in_the_middle_is_completed_without_repeats() -> None:
    server = FeedServer(feed=records(1, 6, 1), breaks=[Break(after=2), Break(after=1)])
    async with connected(server) as client:
        got = await until_caught_up(client.subscribe(after_revision=0))
    assert [len(update.records) for update in got] == [1, 2, 0, 0, 2, 2, 1, 0]
    assert sum(update.dropped for update in got) == 4
    assert [update.resumed for update in got].count(True) == 2
    assert [request.after_revision for request in server.requests] == [0, 1, 1]


async def test_the_first_header_fixes_the_position_of_a_stream_from_now_on() -> None:
    server = FeedServer(feed=records(1, 1, 1), breaks=[Break(after=0), Break(after=1)])
    async with connected(server) as client:
        updates = client.subscribe()
        assert (await anext(updates)).revision == 3
        server.feed = records(1, 1, 1, 1, 1)
        update = await anext(updates)
        await updates.aclose()
    assert places(update.records) == [(4, 0), (5, 0)]
    assert [request.HasField("after_revision") for request in server.requests] == [
        False, False, True
    ]  # fmt: skip
    assert server.requests[-1].journal_id == JOURNAL_ID


async def test_current_sessions_start_over_until_complete_and_then_go_on_by_revision() -> None:
    sessions = [Session(session_id=name) for name in "abc"]
    server = FeedServer(
        feed=records(1, 1), sessions=sessions, breaks=[Break(after=2), Break(after=3)]
    )
    async with connected(server) as client:
        got = await until_caught_up(client.subscribe(sessions_first=True))
    names = ["".join(session.session_id for session in update.sessions) for update in got]
    assert names == ["a", "b", "a", "b", "c", ""]
    assert [update.resumed for update in got] == [False, False, True, False, False, True]
    assert [update.sessions_complete for update in got].index(True) == 4
    asked = [(r.sessions_first, r.HasField("after_revision")) for r in server.requests]
    assert asked == [(True, False), (True, False), (False, True)]


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (Status.INVALID_ARGUMENT, "INVALID_REQUEST", InvalidRequest),
        (Status.OUT_OF_RANGE, "REVISION_NOT_KEPT", OutOfRange),
        (Status.FAILED_PRECONDITION, "JOURNAL_MISMATCH", JournalMismatch),
        (Status.UNAUTHENTICATED, "", Denied),
        (Status.UNIMPLEMENTED, "", Failed),
    ],
)
async def test_a_refusal_is_raised_with_its_reason_and_not_tried_again(
    code: grpc.StatusCode, reason: str, kind: type[ClientError]
) -> None:
    server = FeedServer(feed=records(1), breaks=[Break(after=1, code=code, reason=reason)])
    async with connected(server) as client:
        updates = client.subscribe(after_revision=0)
        await anext(updates)
        with pytest.raises(kind) as caught:
            await anext(updates)
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert len(server.requests) == 1


async def test_a_service_that_lags_behind_the_one_before_is_asked_again() -> None:
    behind = Break(after=0, code=Status.OUT_OF_RANGE, reason="REVISION_IN_FUTURE")
    server = FeedServer(feed=records(1, 1, 1, 1), breaks=[Break(after=1), behind, behind])
    async with connected(server) as client:
        got = await until_caught_up(client.subscribe(after_revision=0))
    assert places([record for update in got for record in update.records]) == places(server.feed)


async def test_a_revision_that_no_service_ever_told_of_is_not_waited_for() -> None:
    behind = Break(after=0, code=Status.OUT_OF_RANGE, reason="REVISION_IN_FUTURE")
    async with connected(FeedServer(feed=records(1), breaks=[behind])) as client:
        with pytest.raises(OutOfRange):
            await anext(client.subscribe(after_revision=9))


async def test_a_position_that_names_its_journal_waits_for_a_service_that_is_behind() -> None:
    behind = Break(after=0, code=Status.OUT_OF_RANGE, reason="REVISION_IN_FUTURE")
    async with connected(FeedServer(feed=records(1), breaks=[behind])) as client:
        updates = client.subscribe(after_revision=1, journal_id=JOURNAL_ID)
        assert (await until_caught_up(updates))[-1].revision == 1


# ---- Several replicas ----


@contextlib.asynccontextmanager
async def replicated(*servers: FeedServer, dead: int = 0) -> AsyncIterator[Client]:
    """A client of several servers, and of some targets where nobody listens."""
    async with contextlib.AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(serving(each)) for each in servers]
        targets = [f"127.0.0.1:{port}" for port in [*[1] * dead, *ports]]
        client = Client(", ".join(targets), reconnect_delay=0.002)
        yield await stack.enter_async_context(client)


async def test_a_question_goes_to_a_replica_that_can_be_reached() -> None:
    async with replicated(FeedServer(feed=records(1, 1)), dead=2) as client:
        for _ in range(3):
            assert (await client.status()).header.revision == 2


async def test_a_question_fails_if_no_replica_can_be_reached() -> None:
    async with replicated(dead=2) as client:
        with pytest.raises(Unavailable):
            await client.status()


async def test_a_broken_stream_goes_on_at_another_replica() -> None:
    feed = records(*[1] * 12)
    servers = [FeedServer(feed=feed, breaks=[Break(after=1)] * 2) for _ in range(2)]
    async with replicated(*servers) as client:
        got = await until_caught_up(client.subscribe(after_revision=0))
    assert places([record for update in got for record in update.records]) == places(feed)
    assert {len(server.requests) for server in servers} == {2, 3}


async def test_streams_that_break_together_all_leave_the_replica_that_is_gone() -> None:
    server = FeedServer(feed=records(1, 1, 1))
    async with replicated(server, dead=1) as client:
        streams = [until_caught_up(client.subscribe(after_revision=0)) for _ in range(4)]
        for got in await asyncio.gather(*streams):
            assert got[-1].revision == 3


@pytest.mark.parametrize("target", ["127.0.0.1:1,", ",127.0.0.1:1"])
async def test_an_empty_target_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="empty target"):
        Client(target)


async def test_a_key_is_sent_to_no_replica_in_clear_text() -> None:
    with pytest.raises(ValueError, match="over TLS only"):
        Client("127.0.0.1:1, desk.example.com:1", key="secret")


async def test_a_stream_that_goes_over_to_another_journal_is_an_error() -> None:
    async with connected(FeedServer(feed=records(1))) as client:
        with pytest.raises(JournalMismatch):
            await anext(client.subscribe(after_revision=0, journal_id="f" * 32))


async def test_a_stream_that_falls_silent_is_opened_again() -> None:
    server = FeedServer(feed=records(1, 1, 1, 1), breaks=[Break(after=1, code=None)])
    async with connected(server) as client:
        got = await until_caught_up(client.subscribe(after_revision=0, silence=0.3))
    assert places([record for update in got for record in update.records]) == places(server.feed)
    assert len(server.requests) >= 2  # more: a busy machine is silent too


@pytest.mark.parametrize("leave", ["aclose", "cancel"])
async def test_leaving_a_subscription_ends_its_call_on_the_server(leave: str) -> None:
    server = FeedServer(feed=records(1))
    async with connected(server) as client:
        updates = client.subscribe(after_revision=0)
        await until_caught_up(updates)
        assert not server.left.is_set()
        if leave == "aclose":
            await updates.aclose()
        else:
            waiting = asyncio.create_task(anext(updates))
            await asyncio.sleep(0)  # lets it begin to wait
            waiting.cancel()
        async with asyncio.timeout(PATIENCE):
            await server.left.wait()


async def test_a_subscription_outlives_a_restart_of_the_server() -> None:
    feed = records(1, 1, 1, 1, 1, 1)
    with reserved_port() as port:
        async with Client(f"127.0.0.1:{port}") as client:
            updates = client.subscribe(after_revision=0)
            async with serving(FeedServer(feed=feed[:2]), port=port):
                got = await until_caught_up(updates)
            async with serving(FeedServer(feed=feed), port=port):
                got += await until_caught_up(updates)
                await updates.aclose()
    assert places([record for update in got for record in update.records]) == places(feed)


async def test_giving_up_says_why() -> None:
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(Unavailable):
            await anext(client.subscribe(after_revision=0, give_up_after=0.2))


async def test_too_many_streams_is_tried_again_until_given_up() -> None:
    full = Break(after=0, code=Status.RESOURCE_EXHAUSTED, reason="TOO_MANY_STREAMS")
    for give_up_after in (0.1, 1.0, 10.0):  # a busy machine tries once in the shortest
        server = FeedServer(breaks=[full] * 1000)
        async with connected(server) as client:
            with pytest.raises(TooMany) as caught:
                await anext(client.subscribe(give_up_after=give_up_after))
        assert caught.value.reason == "TOO_MANY_STREAMS"
        if len(server.requests) > 1:
            return
    pytest.fail("tried once")


async def test_sessions_are_listed_across_pages() -> None:
    server = FeedServer(sessions=[Session(session_id=name) for name in "abcde"])
    async with connected(server) as client:
        listed = [session.session_id async for session in client.list_sessions(page_size=2)]
    assert listed == list("abcde")


async def test_a_session_that_is_not_there_is_not_found() -> None:
    async with connected(FeedServer(sessions=[Session(session_id="a")])) as client:
        found = await client.get_session("a")
        assert (found.session.session_id, found.journal_id) == ("a", JOURNAL_ID)
        with pytest.raises(NotFound) as caught:
            await client.get_session("b")
    assert caught.value.reason == "SESSION_NOT_FOUND"


class Store:
    """A consumer's database, in memory."""

    def __init__(self) -> None:
        self.kept: list[SessionRecord] = []
        self._position = ("", 0)

    def position(self) -> tuple[str, int]:
        return self._position

    def save(self, batch: Sequence[SessionRecord], journal_id: str, revision: int) -> None:
        self.kept += batch
        self._position = (journal_id, revision)


async def test_the_documented_example_copies_the_feed_and_goes_on_where_it_was() -> None:
    (example,) = doctest.DocTestParser().get_examples(Client.__doc__ or "")
    names: dict[str, Any] = {"Client": Client, "contextlib": contextlib}
    exec(example.source, names)
    store, server = Store(), FeedServer(feed=records(1, 5, 2))
    async with serving(server) as port:
        await names["copy_feed"](f"127.0.0.1:{port}", store)
        server.feed = records(1, 5, 2, 1)
        await names["copy_feed"](f"127.0.0.1:{port}", store)
    assert places(store.kept) == places(server.feed)
    assert store.position() == (JOURNAL_ID, 4)

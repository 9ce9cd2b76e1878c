"""The client's questions, asked of a real service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo

from desk.client import (
    Client,
    Failed,
    InvalidRequest,
    JournalMismatch,
    NotFound,
    OutOfRange,
    TimedOut,
)
from desk.v1.event_pb2 import EventFilter, RejectionReason
from desk.v1.event_service_pb2 import ListRejectionsResponse
from desk.v1.session_pb2 import Session, SessionKey, SessionState
from desk.v1.session_service_pb2 import (
    BatchGetSessionsResponse,
    CountGroup,
    ExplainSessionResponse,
    GetSessionResponse,
    ListSessionsResponse,
)
from desk.v1.status_pb2 import GetStatusRequest, GetStatusResponse, ResponseHeader
from tests.support.callbacks import APP, NOON, SESSION, body, life
from tests.support.feed_server import FeedServer, connected, serving
from tests.support.rpc import PATIENCE, World, service


@asynccontextmanager
async def asked(*bodies: bytes) -> AsyncIterator[tuple[World, Client]]:
    async with service(*bodies) as (world, worker), Client(f"127.0.0.1:{worker.port}") as client:
        yield world, client


def begun(*names: str) -> list[bytes]:
    return [body("SessionBegin", NOON, session_id=name) for name in names]


async def test_a_session_comes_with_the_position_from_which_to_follow_it():
    async with asked(*life("SessionBegin", "TransferringToHuman")) as (world, client):
        found = await client.get_session(SESSION)
        earlier = await client.get_session(SESSION, as_of_revision=1)
        known = datetime.fromtimestamp((NOON + 1) / 1000, UTC)  # when the support's entries arrive
        assert await client.get_session(SESSION, as_of_time=known) == found
        with pytest.raises(NotFound):
            await client.get_session(SESSION, as_of_time=known - timedelta(seconds=1))
        world.append(body("SessionEnd", NOON + 99_000))
        updates = client.subscribe(after_revision=found.revision, journal_id=found.journal_id)
        async with aclosing(updates):
            records = await anext(each.records async for each in updates if each.records)
    assert (found.revision, found.journal_id) == (2, world.journal.id)
    assert found.session.state == SessionState.SESSION_STATE_TRANSFERRING
    assert (earlier.revision, earlier.session.state) == (1, SessionState.SESSION_STATE_CHATBOT)
    assert [record.event.type_name for record in records] == ["SessionEnd"]


async def test_a_revision_that_is_not_reached_is_out_of_range():
    async with asked(*begun("a")) as (_, client):
        with pytest.raises(OutOfRange) as caught:
            await client.get_session("a", as_of_revision=9)
    assert caught.value.reason == "REVISION_IN_FUTURE"


async def test_a_request_at_fault_names_its_fields():
    async with asked() as (_, client):
        with pytest.raises(InvalidRequest) as caught:
            await client.get_session("")
    assert caught.value.reason == "INVALID_REQUEST"
    assert list(caught.value.fields) == ["session_id"]


async def test_sessions_are_counted_by_group():
    bodies = [*begun("a", "b"), *life("SessionBegin", "TransferringToHuman")]
    async with asked(*bodies) as (world, client):
        counts = await client.count_sessions(group_by=CountGroup.COUNT_GROUP_STATE)
        total = await client.count_sessions()
    assert [(group.key, group.sessions) for group in counts.groups] == [
        ("SESSION_STATE_CHATBOT", 2),
        ("SESSION_STATE_TRANSFERRING", 1),
    ]
    assert (counts.other_sessions, counts.revision) == (0, 4)
    assert counts.journal_id == world.journal.id
    assert [group.sessions for group in total.groups] == [3]


async def test_a_session_is_explained_across_pages():
    events = ("SessionBegin", "TransferringToHuman", "SessionBegin", "SessionEnd")
    async with asked(*life(*events)) as (world, client):
        explanation = await client.explain_session(SESSION, page_size=1)
        records = [record async for record in explanation.records]
    assert [record.event.type_name for record in records] == list(events)
    assert records[2].rejection_reason == RejectionReason.REJECTION_REASON_ALREADY_BEGUN
    assert explanation.session is not None
    assert explanation.session.state == SessionState.SESSION_STATE_ENDED
    assert (explanation.revision, explanation.journal_id) == (4, world.journal.id)


async def test_a_session_that_has_not_begun_is_explained_and_an_unknown_one_is_not_found():
    async with asked(*life("SessionEnd")) as (_, client):
        explanation = await client.explain_session(SESSION)
        assert explanation.session is None
        assert [record.event.type_name async for record in explanation.records] == ["SessionEnd"]
        with pytest.raises(NotFound):
            await client.explain_session("unknown")


async def test_rejections_are_listed_across_pages_newest_first():
    bodies = [*begun("a"), *(body("SessionEnd", NOON, session_id=name) for name in "bcd"), b"{"]
    async with asked(*bodies) as (_, client):
        everything = [record.revision async for record in client.list_rejections(page_size=1)]
        malformed = client.list_rejections(reasons=[RejectionReason.REJECTION_REASON_MALFORMED])
        selected = client.list_rejections(EventFilter(session_ids=["c"]))
        assert everything == [5, 4, 3, 2]
        assert [record.revision async for record in malformed] == [5]
        assert [record.revision async for record in selected] == [3]


async def test_many_sessions_are_found_however_many_calls_it_takes():
    names = [f"session-{number}" for number in range(12)]
    unknown = [f"unknown-{number}" for number in range(1_200)]
    keys = [SessionKey(session_id=name) for name in [*unknown, *names, names[0]]]
    async with asked(*begun(*names)) as (world, client):
        found = await client.batch_get_sessions(keys)
    assert [session.session_id for session in found.sessions] == names
    assert [(key.sdk_app_id, key.session_id) for key in found.missing] == [
        (APP, name) for name in unknown
    ]
    assert (found.revision, found.journal_id) == (12, world.journal.id)


class OneByOne(FeedServer):
    """Answers one key of a batch at a time, from the next of its journals."""

    def __init__(self, *journal_ids: str) -> None:
        super().__init__()
        self._journal_ids = iter(journal_ids)

    async def BatchGetSessions(self, request: Any, context: Any) -> BatchGetSessionsResponse:  # noqa: N802
        return BatchGetSessionsResponse(
            header=ResponseHeader(journal_id=next(self._journal_ids), revision=len(request.keys)),
            sessions=[Session(session_id=request.keys[0].session_id)],
            remaining=request.keys[1:],
        )


async def test_sessions_that_do_not_fit_into_one_answer_are_asked_for_again():
    async with connected(OneByOne("a", "a", "a")) as client:
        found = await client.batch_get_sessions(SessionKey(session_id=name) for name in "xyz")
    assert [session.session_id for session in found.sessions] == list("xyz")
    assert (found.revision, found.journal_id) == (1, "a")


async def test_sessions_of_two_journals_are_not_put_together():
    async with connected(OneByOne("a", "b")) as client:
        with pytest.raises(JournalMismatch):
            await client.batch_get_sessions(SessionKey(session_id=name) for name in "xy")


class AnswersNone(FeedServer):
    """Answers for none of the keys of a batch, and puts all of them off."""

    async def BatchGetSessions(self, request: Any, context: Any) -> BatchGetSessionsResponse:  # noqa: N802
        return BatchGetSessionsResponse(remaining=request.keys)


async def test_a_service_that_never_answers_for_a_key_is_not_asked_for_ever():
    async with connected(AnswersNone()) as client, asyncio.timeout(PATIENCE):
        with pytest.raises(Failed, match="none of the keys"):
            await client.batch_get_sessions([SessionKey(session_id="x")])


class RepeatsPages(FeedServer):
    """Answers each page with the same token, and with nothing else."""

    async def ListSessions(self, request: Any, context: Any) -> ListSessionsResponse:  # noqa: N802
        return ListSessionsResponse(next_page_token="again")

    async def ListRejections(self, request: Any, context: Any) -> ListRejectionsResponse:  # noqa: N802
        return ListRejectionsResponse(next_page_token="again")

    async def ExplainSession(self, request: Any, context: Any) -> ExplainSessionResponse:  # noqa: N802
        return ExplainSessionResponse(next_page_token="again")


async def test_a_service_that_repeats_a_page_token_is_not_asked_for_ever():
    async with connected(RepeatsPages()) as client, asyncio.timeout(PATIENCE):
        explanation = await client.explain_session("x")
        for pages in (client.list_sessions(), client.list_rejections(), explanation.records):
            with pytest.raises(Failed, match="one page token twice"):
                await anext(pages)


class NeverAnswers(FeedServer):
    """Takes calls and leaves them open."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def GetStatus(self, request: Any, context: Any) -> GetStatusResponse:  # noqa: N802
        self.asked.set()
        await asyncio.Event().wait()
        return GetStatusResponse()


async def test_calls_of_a_client_that_is_closed_end_with_its_own_error():
    server = NeverAnswers()
    async with connected(server) as client, asyncio.timeout(PATIENCE):
        updates = client.subscribe()
        await anext(updates)
        waiting = [asyncio.create_task(client.status()), asyncio.create_task(anext(updates))]
        await server.asked.wait()
        await client.close()
        again = [asyncio.create_task(client.status())]
        again += [asyncio.create_task(anext(client.subscribe()))]
        for task in waiting + again:
            with pytest.raises(Failed, match="the client is closed"):
                await task


async def test_a_call_that_is_cancelled_by_its_caller_is_cancelled():
    server = NeverAnswers()
    async with connected(server) as client, asyncio.timeout(PATIENCE):
        waiting = asyncio.create_task(client.status())
        await server.asked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.status(), 0.01)


async def test_a_timeout_of_zero_is_not_the_default():
    async with (
        serving(NeverAnswers()) as port,
        Client(f"127.0.0.1:{port}", timeout=600) as client,
        asyncio.timeout(PATIENCE),
    ):
        with pytest.raises(TimedOut):
            await client.call(client.status_service.GetStatus, GetStatusRequest(), timeout=0)


async def test_an_answer_that_cannot_be_decoded_is_an_error_of_the_client():
    async def garbage(request: bytes, context: object) -> bytes:
        return b"\xff"

    method = grpc.unary_unary_rpc_method_handler(garbage)
    server = grpc.aio.server()
    server.add_registered_method_handlers("desk.v1.StatusService", {"GetStatus": method})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with Client(f"127.0.0.1:{port}") as client:
            with pytest.raises(Failed, match="cannot be decoded"):
                await client.status()
    finally:
        await server.stop(None)


class WithDetails(FeedServer):
    """Fails with the error details that it is given."""

    def __init__(self, details: bytes) -> None:
        super().__init__()
        self._details = details

    async def GetSession(self, request: Any, context: Any) -> GetSessionResponse:  # noqa: N802
        metadata = (("grpc-status-details-bin", self._details),)
        return await context.abort(grpc.StatusCode.NOT_FOUND, "gone", metadata)


def packed(code: int, *details: Message) -> bytes:
    status = status_pb2.Status(code=code)
    for detail in details:
        status.details.add().Pack(detail)
    return status.SerializeToString()


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        (packed(5, ErrorInfo(domain="desk.v1", reason="OURS")), "OURS"),
        (packed(5, ErrorInfo(domain="elsewhere", reason="THEIRS")), ""),
        (packed(5, BadRequest(), ErrorInfo(domain="desk.v1", reason="OURS")), "OURS"),
        (packed(8, ErrorInfo(domain="desk.v1", reason="OF_ANOTHER_CODE")), ""),
        (b"\xff\xff garbage", ""),
        (b"\x08\x05\x18\x01", ""),  # a number where the details should be
        (b"\x08\x05\x1a\x02\x08\x01", ""),  # a detail with a number for its type
    ],
)
async def test_only_details_that_are_the_services_own_give_the_reason(details: bytes, reason: str):
    async with connected(WithDetails(details)) as client:
        with pytest.raises(NotFound) as caught:
            await client.get_session("a")
    assert (caught.value.reason, caught.value.detail) == (reason, "gone")

"""Masks of a request: which fields of an event it leaves out, stored and live."""

from typing import Any

import pytest

from desk.client import Client
from desk.v1 import event_service_pb2 as events
from desk.v1 import session_service_pb2 as sessions
from desk.v1.event_pb2 import EventFilter, Verdict
from service.clients import Client as ClientEntry
from service.rpc.access import Gate
from service.rpc.grants import FULL_GRANT, Grant, Grants
from service.rpc.responses import header
from tests.support.callbacks import NOON, SESSION, body, life
from tests.support.clients import Clients, bearer
from tests.support.rpc import Worker, records, service, take, worker, world

TEXT = b"the-secret-text"
FIELDS = {"MsgBody": [{"MsgType": "TIMTextElem", "MsgContent": {"Text": TEXT.decode()}}]}
BODIES = [
    *life("SessionBegin", "ChatBot.UserSendMsg", **FIELDS),
    body("ChatBot.UserSendMsg", NOON, session_id="not-begun", **FIELDS),
]
MASKS: list[dict[str, bool]] = [
    {},
    {"omit_raw_body": True},
    {"omit_message": True},
    {"omit_raw_body": True, "omit_message": True},
]
EVERY = EventFilter(verdicts=[number for number in Verdict.values() if number])
SUBSCRIBE = events.DESCRIPTOR.services_by_name["EventService"].methods_by_name["Subscribe"]


def without(found: list[Any], mask: dict[str, bool]) -> list[Any]:
    """Check records against the mask, and return them without the fields that a mask may name."""
    for record in found:
        event = record.event
        has_message = event.type_name == "ChatBot.UserSendMsg" and not mask.get("omit_message")
        assert event.HasField("message") == has_message
        assert bool(event.raw_body) == (not mask.get("omit_raw_body"))
        event.ClearField("message")
        event.ClearField("raw_body")
    return found


async def explained(serving: Worker, **fields: Any) -> sessions.ExplainSessionResponse:
    request = sessions.ExplainSessionRequest(session_id=SESSION, **fields)
    return await serving.sessions.ExplainSession(request)


async def rejected(serving: Worker, **fields: Any) -> events.ListRejectionsResponse:
    return await serving.events.ListRejections(events.ListRejectionsRequest(**fields))


async def test_a_mask_leaves_its_fields_out_of_a_stream_stored_and_live_and_nothing_else():
    async with service(*BODIES) as (world, serving):
        options: dict[str, Any] = {"after_revision": 0, "filter": EVERY, "include_session": True}
        calls = [serving.subscribe(**options, **mask) for mask in MASKS]
        stored = [records(await take(call)) for call in calls]
        world.append(*life("SessionBegin", "ChatBot.UserSendMsg", session_id="x", **FIELDS)[1:])
        live = [records(await take(call, until="records")) for call in calls]
        for call in calls:
            call.cancel()
    for found, count in ((stored, 3), (live, 1)):
        whole, *masked = [without(each, mask) for each, mask in zip(found, MASKS, strict=True)]
        assert len(whole) == count
        assert all(each == whole for each in masked)


async def test_a_mask_follows_a_snapshot():
    async with service(*BODIES) as (world, serving):
        call = serving.subscribe(sessions_first=True, omit_message=True, omit_raw_body=True)
        (first, *_) = await take(call)
        assert [each.session_id for each in first.sessions.sessions] == [SESSION]
        world.append(body("ChatBot.UserSendMsg", NOON + 60_000, **FIELDS))
        (record,) = records(await take(call, until="records"))
        call.cancel()
    assert record.event.type_name == "ChatBot.UserSendMsg"
    assert TEXT not in record.SerializeToString()


@pytest.mark.parametrize("ask", [explained, rejected])
async def test_a_mask_leaves_its_fields_out_of_a_page_and_nothing_else(ask):
    async with service(*BODIES) as (_, serving):
        answers = [await ask(serving, **mask) for mask in MASKS]
    for answer, mask in zip(answers, MASKS, strict=True):
        assert without(answer.records, mask)
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("ask", [explained, rejected])
async def test_the_next_page_may_have_another_mask(ask):
    bodies = [*BODIES, body("ChatBot.UserSendMsg", NOON, session_id="nor-this", **FIELDS)]
    async with service(*bodies) as (_, serving):
        first = await ask(serving, page_size=1, omit_raw_body=True)
        second = await ask(serving, page_size=1, page_token=first.next_page_token)
    assert [bool(page.records[0].event.raw_body) for page in (first, second)] == [False, True]


async def test_a_mask_gives_nothing_that_the_scope_does_not(tmp_path):
    clients = Clients(tmp_path)
    blind = bearer(clients.add("blind", scopes=("feed.read",)))
    with world(BODIES) as made:
        made.wait()
        async with worker(made, clients=clients.file()) as serving:
            for mask in MASKS:
                request = events.SubscribeRequest(after_revision=0, filter=EVERY, **mask)
                stream = serving.events.Subscribe(request, metadata=blind)
                found = records(await take(stream))
                stream.cancel()
                assert len(found) == len(BODIES)
                assert all(TEXT not in record.SerializeToString() for record in found)


def test_streams_with_one_mask_share_the_message_that_is_made():
    gate = Gate(Grants(None, [], encrypted=False), SUBSCRIBE)
    message = events.SubscribeResponse(header=header("journal", 1))
    message.records.records.add().event.raw_body = TEXT
    sent = message.SerializeToString()
    blind = Grant(ClientEntry(name="blind", apps="*", scopes=("feed.read",)), None, ())
    masked = events.SubscribeRequest(omit_raw_body=True)
    one, other = (gate.redactor(FULL_GRANT, masked)(sent) for _ in range(2))
    assert one is other
    assert TEXT not in one
    assert gate.redactor(FULL_GRANT, events.SubscribeRequest())(sent) is sent
    assert TEXT not in gate.redactor(blind, events.SubscribeRequest())(sent)


async def test_the_client_asks_for_records_without_texts():
    omitted: Any = {"omit_message": True, "omit_raw_body": True}
    async with service(*BODIES) as (_, serving), Client(f"127.0.0.1:{serving.port}") as client:
        explanation = await client.explain_session(SESSION, **omitted)
        found = [record async for record in explanation.records]
        found += [record async for record in client.list_rejections(**omitted)]
        updates = client.subscribe(after_revision=0, **omitted)
        found += (await anext(updates)).records
        await updates.aclose()
    assert len(found) >= 5
    assert all(TEXT not in record.SerializeToString() for record in found)

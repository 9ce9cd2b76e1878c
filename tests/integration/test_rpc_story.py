"""ExplainSession and ListRejections on a real channel: what was made of every callback, and why."""

from typing import Any

import grpc
import pytest

from desk.v1.event_pb2 import EventFilter, RejectionReason, Verdict
from desk.v1.event_service_pb2 import ListRejectionsRequest
from desk.v1.session_pb2 import SessionState
from desk.v1.session_service_pb2 import ExplainSessionRequest
from service.view import reader
from tests.support.callbacks import APP, NOON, SESSION, body, life
from tests.support.rpc import fields, reason, refusal, service

LATE = ("SessionBegin", "TransferringToHuman", "TransferringToHumanWait", "SessionEnd")


def states(records: Any) -> list[tuple[str, str]]:
    return [
        tuple(
            SessionState.Name(state).removeprefix("SESSION_STATE_")
            for state in (record.state_before, record.state_after)
        )
        for record in records
    ]


async def test_a_story_is_told_in_time_order_with_the_states_of_now():
    bodies = life(*LATE)
    async with service(bodies[0], bodies[3], bodies[2], bodies[1]) as (_, worker):
        answer = await worker.sessions.ExplainSession(ExplainSessionRequest(session_id=SESSION))
        assert answer.header.revision == 4
        assert answer.session.state == SessionState.SESSION_STATE_ENDED
        assert [record.event.revision for record in answer.records] == [1, 4, 3, 2]
        assert states(answer.records) == [
            ("UNSPECIFIED", "CHATBOT"),
            ("CHATBOT", "TRANSFERRING"),
            ("TRANSFERRING", "QUEUED"),
            ("QUEUED", "ENDED"),
        ]
        assert [record.late_by.ToMilliseconds() for record in answer.records] == [
            0,
            20_000,
            10_000,
            0,
        ]
        assert [record.HasField("late_by") for record in answer.records] == [
            False,
            True,
            True,
            False,
        ]
        # Published as impossible at 3, revised by the late event at 4.
        assert (answer.records[2].revision, answer.records[2].revised) == (4, True)
        assert answer.records[0].event.raw_body == bodies[0]


async def test_a_rejection_is_explained_by_the_state_that_it_now_stands_in():
    begun = life("SessionBegin", "TransferringToHuman")
    ended, queued = (
        body("SessionAgentEnd", NOON + 30_000),
        body("TransferringToHumanWait", NOON + 20_000),
    )
    async with service(*begun, ended, queued) as (_, worker):
        answer = await worker.sessions.ExplainSession(ExplainSessionRequest(session_id=SESSION))
        last = answer.records[-1]
        assert SessionState.Name(last.state_before) == "SESSION_STATE_QUEUED"
        assert last.rejection_detail == "SessionAgentEnd is impossible while the session is QUEUED"


async def test_a_session_that_has_not_begun_has_a_story_too():
    async with service(*life(*LATE[1:])) as (_, worker):
        answer = await worker.sessions.ExplainSession(ExplainSessionRequest(session_id=SESSION))
        assert not answer.HasField("session")
        assert {record.rejection_reason for record in answer.records} == {
            RejectionReason.REJECTION_REASON_NOT_BEGUN
        }
        assert all(record.rejection_detail for record in answer.records)


async def test_a_session_that_nothing_names_has_no_story():
    async with service(*life(*LATE)) as (_, worker):
        request = ExplainSessionRequest(session_id="nobody")
        error = await refusal(worker.sessions.ExplainSession(request))
        assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")


async def test_one_session_id_under_two_apps_has_two_stories():
    async with service(*life(*LATE[:2]), apps=(APP, 7)) as (world, worker):
        await worker.revision(world.append(*life(*LATE), app=7))
        for app, revisions in ((APP, [1, 2]), (7, [3, 4, 5, 6])):
            request = ExplainSessionRequest(sdk_app_id=app, session_id=SESSION)
            answer = await worker.sessions.ExplainSession(request)
            assert (answer.session.sdk_app_id, answer.session.revision) == (app, revisions[-1])
            assert [record.event.revision for record in answer.records] == revisions


async def test_all_pages_of_a_story_are_of_the_revision_of_the_first():
    bodies = life(*LATE)
    async with service(*bodies[1:]) as (world, worker):
        request = ExplainSessionRequest(session_id=SESSION, page_size=2)
        first = await worker.sessions.ExplainSession(request)
        await worker.revision(world.append(bodies[0]))
        request.page_token = first.next_page_token
        second = await worker.sessions.ExplainSession(request)
        assert (first.header.revision, second.header.revision) == (3, 3)
        assert [len(first.records), len(second.records)] == [2, 1]
        assert second.records[0].verdict == Verdict.VERDICT_REJECTED
        assert not second.next_page_token
        request.session_id = "other"
        assert reason(await refusal(worker.sessions.ExplainSession(request))) == (
            "INVALID_PAGE_TOKEN"
        )


async def rejections(worker: Any, **fields: Any) -> list[int]:
    """The events of all rejections, page by page."""
    revisions: list[int] = []
    token = ""
    while True:
        request = ListRejectionsRequest(**fields, page_token=token)
        answer = await worker.events.ListRejections(request)
        revisions += [record.event.revision for record in answer.records]
        token = answer.next_page_token
        if not token:
            return revisions


async def test_rejections_that_stand_are_listed_newest_first():
    bodies = [*life(*LATE, session_id="fine"), *life(*LATE[1:]), b"no callback"]
    async with service(*bodies) as (world, worker):
        assert await rejections(worker) == [8, 7, 6, 5]
        assert await rejections(worker, page_size=1) == [8, 7, 6, 5]
        assert await rejections(worker, page_size=2) == [8, 7, 6, 5]
        malformed = [RejectionReason.REJECTION_REASON_MALFORMED]
        assert await rejections(worker, reasons=malformed) == [8]
        only = EventFilter(session_ids=[SESSION])
        assert await rejections(worker, filter=only, page_size=2) == [7, 6, 5]
        assert await rejections(worker, filter=EventFilter(agent_ids=["nobody"])) == []
        await worker.revision(world.append(life(*LATE)[0]))
        assert await rejections(worker) == [8]


async def test_a_page_that_looks_at_many_rejections_may_be_short_but_misses_none(monkeypatch):
    monkeypatch.setattr(reader, "SCAN_ROWS", 3)
    bodies = [
        body("ChatBot.UserSendMsg", NOON + n, session_id=f"s{n % 5}", MsgKey=str(n))
        for n in range(20)
    ]
    async with service(*bodies) as (_, worker):
        wanted = [n + 1 for n in reversed(range(20)) if n % 5 == 4]
        assert await rejections(worker, filter=EventFilter(session_ids=["s4"])) == wanted


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ListRejectionsRequest(page_size=-1), "page_size"),
        (ListRejectionsRequest(reasons=[99]), "reasons"),
        (
            ListRejectionsRequest(filter=EventFilter(verdicts=[Verdict.VERDICT_REJECTED])),
            "filter.verdicts",
        ),
    ],
)
async def test_a_list_of_rejections_that_makes_no_sense_names_the_field(request_, field):
    async with service() as (_, worker):
        error = await refusal(worker.events.ListRejections(request_))
        assert (reason(error), fields(error)) == ("INVALID_REQUEST", [field])

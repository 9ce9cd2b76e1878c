"""ExplainSession and ListRejections on a real channel: what was made of every callback, and why."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from desk.v1.event_pb2 import EventFilter, EventType, RejectionReason, Verdict
from desk.v1.event_service_pb2 import CountEventsRequest, ListRejectionsRequest
from desk.v1.session_pb2 import SessionState
from desk.v1.session_service_pb2 import ExplainSessionRequest
from service.rpc.explanation import Explanations
from service.rpc.limits import Limits
from service.rpc.page_tokens import PageTokens
from service.view.bounds import Row
from service.view.reader import Reader
from tests.support.callbacks import APP, NOON, SESSION, body, life
from tests.support.rpc import World, began, fields, reason, refusal, service, world

LATE = ("SessionBegin", "TransferringToHuman", "TransferringToHumanWait", "SessionEnd")


def states(records: Any) -> list[tuple[str, str]]:
    return [
        tuple(
            SessionState.Name(state).removeprefix("SESSION_STATE_")
            for state in (record.state_before, record.state_after)
        )
        for record in records
    ]


async def test_an_explanation_is_in_time_order_with_the_states_of_now():
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
        body("SatisfactionSelected", NOON + 30_000),
        body("TransferringToHumanWait", NOON + 20_000),
    )
    async with service(*begun, ended, queued) as (_, worker):
        answer = await worker.sessions.ExplainSession(ExplainSessionRequest(session_id=SESSION))
        last = answer.records[-1]
        assert SessionState.Name(last.state_before) == "SESSION_STATE_QUEUED"
        assert (
            last.rejection_detail
            == "SatisfactionSelected is impossible while the session is QUEUED"
        )


async def test_a_session_that_has_not_begun_has_an_explanation_too():
    async with service(*life(*LATE[1:])) as (_, worker):
        answer = await worker.sessions.ExplainSession(ExplainSessionRequest(session_id=SESSION))
        assert not answer.HasField("session")
        assert {record.rejection_reason for record in answer.records} == {
            RejectionReason.REJECTION_REASON_NOT_BEGUN
        }
        assert all(record.rejection_detail for record in answer.records)


async def test_a_session_that_nothing_names_has_no_explanation():
    async with service(*life(*LATE)) as (_, worker):
        request = ExplainSessionRequest(session_id="nobody")
        error = await refusal(worker.sessions.ExplainSession(request))
        assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")


async def test_one_session_id_under_two_apps_has_two_explanations():
    async with service(*life(*LATE[:2]), apps=(APP, 7)) as (world, worker):
        await worker.revision(world.append(*life(*LATE), app=7))
        for app, revisions in ((APP, [1, 2]), (7, [3, 4, 5, 6])):
            request = ExplainSessionRequest(sdk_app_id=app, session_id=SESSION)
            answer = await worker.sessions.ExplainSession(request)
            assert (answer.session.sdk_app_id, answer.session.revision) == (app, revisions[-1])
            assert [record.event.revision for record in answer.records] == revisions


async def test_all_pages_of_an_explanation_are_of_the_revision_of_the_first():
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


class Recording(Reader):
    """Notes what is read of histories and of records."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.histories = 0
        self.positions: list[int] = []

    def history(self, *place: Any, revised: bool = False) -> Iterator[Row]:
        self.histories += not revised
        return super().history(*place, revised=revised)

    def records(self, positions: Iterable[int]) -> Iterator[Row]:
        for row in super().records(positions):
            self.positions.append(row[0])
            yield row


def read_pages(reader: Reader, explanations: Explanations, revision: int) -> list[int]:
    revisions, end = [], 0
    while True:
        page, following = explanations.page(reader, (APP, SESSION), (revision, end), 2)
        revisions += [record.event.revision for record in page.records]
        if following is None:
            return revisions
        end = following[1]


def page_of(world: World, revision: int, start: int) -> ExplainSessionRequest:
    """The request for a page whose first one came from another replica, at a revision."""
    tokens = PageTokens("ExplainSession", world.journal.id, (APP, SESSION), numbers=2)
    return ExplainSessionRequest(session_id=SESSION, page_token=tokens.token((revision, start)))


async def test_a_page_waits_at_a_replica_that_lags_behind_the_first_one():
    first, second, third = life("SessionBegin", "TransferringToHuman", "TransferringToHumanWait")
    async with service(first, second) as (world, worker):
        call = worker.sessions.ExplainSession(page_of(world, 3, 2))
        await began(call, worker)
        world.append(third)
        answer = await call
        assert answer.header.revision == 3
        assert [record.event.revision for record in answer.records] == [3]


async def test_a_page_of_a_revision_that_is_not_reached_in_time_may_be_asked_for_again():
    async with service(*life("SessionBegin"), limits=Limits(revision_seconds=0.1)) as served:
        world, worker = served
        error = await refusal(worker.sessions.ExplainSession(page_of(world, 2, 1)))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert reason(error) == "REVISION_NOT_REACHED"


def test_a_session_is_folded_once_for_all_pages_and_a_page_reads_its_own_records():
    bodies = life(*LATE)
    with world([bodies[0], bodies[3], bodies[2], bodies[1]]) as made:
        made.wait()
        explanations = Explanations(100)
        with closing(Recording(made.view)) as reader:
            assert read_pages(reader, explanations, 4) == [1, 4, 3, 2]
            assert (reader.histories, len(reader.positions)) == (1, 4)
            assert read_pages(reader, explanations, 3) == [1, 3, 2]
            assert read_pages(reader, explanations, 4) == [1, 4, 3, 2]
            assert reader.histories == 2


def test_old_explanations_make_room_for_new_ones():
    with world(life(*LATE)) as made:
        made.wait()
        explanations = Explanations(7)
        with closing(Recording(made.view)) as reader:
            for revision in (4, 3, 4, 3, 2, 3, 4):
                read_pages(reader, explanations, revision)
            assert reader.histories == 4


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


async def test_events_are_counted_as_things_stand():
    async def counts(**request: Any) -> dict[tuple[int, int, int, int], int]:
        answer = await worker.events.CountEvents(CountEventsRequest(**request))
        return {
            (each.type, each.state_before, each.verdict, each.rejection_reason): each.events
            for each in answer.counts
        }

    begin, *rest = life("SessionBegin", "TransferringToHuman", "SessionEnd")
    accepted, rejected = Verdict.VERDICT_ACCEPTED, Verdict.VERDICT_REJECTED
    unset, chatbot, transferring = 0, 1, 2
    not_begun, malformed = 1, RejectionReason.REJECTION_REASON_MALFORMED
    ask, end = EventType.EVENT_TYPE_TRANSFERRING_TO_HUMAN, EventType.EVENT_TYPE_SESSION_END
    async with service(*rest, b"no callback", body("Brand.New", NOON)) as (world, worker):
        unrecognised = {(1, unset, Verdict.VERDICT_UNRECOGNISED, 0): 1}
        broken = {(0, unset, rejected, malformed): 1}
        before = {(ask, unset, rejected, not_begun): 1, (end, unset, rejected, not_begun): 1}
        assert await counts() == {**broken, **unrecognised, **before}
        await worker.revision(world.append(begin))
        assert await counts(sdk_app_ids=[APP]) == {
            **broken,
            (1, chatbot, Verdict.VERDICT_UNRECOGNISED, 0): 1,
            (EventType.EVENT_TYPE_SESSION_BEGIN, unset, accepted, 0): 1,
            (ask, chatbot, accepted, 0): 1,
            (end, transferring, accepted, 0): 1,
        }
        assert await counts(sdk_app_ids=[APP + 1]) == {}
        error = await refusal(worker.events.CountEvents(CountEventsRequest(sdk_app_ids=[0])))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


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

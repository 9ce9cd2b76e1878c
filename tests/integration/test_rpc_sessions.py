"""SessionService on a real channel: get, batch, list, count and wait, with every refusal."""

from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from desk.v1.session_pb2 import SessionFilter, SessionKey, SessionState, TimeRange
from desk.v1.session_service_pb2 import (
    BatchGetSessionsRequest,
    CountGroup,
    CountSessionsRequest,
    GetSessionRequest,
    ListSessionsRequest,
    WaitForStateRequest,
)
from journal.entry import unnumbered
from service.records import timestamp
from service.rpc.limits import Limits
from tests.support.callbacks import APP, NOON, SESSION, body, entry, life
from tests.support.rpc import PATIENCE, began, fields, reason, refusal, service, until

QUEUE = ("SessionBegin", "TransferringToHuman", "TransferringToHumanWait")
SERVED = (*QUEUE, "TransferToHumanSuccess", "Human.AgentSendMsg", "SatisfactionSelected")
CLOSED = (*SERVED, "SessionUserEnd", "SessionEnd")


def get(**fields: Any) -> GetSessionRequest:
    return GetSessionRequest(**({"session_id": SESSION} | fields))


async def test_a_session_is_returned_with_the_revision_that_it_is_of():
    async with service(*life(*QUEUE)) as (world, worker):
        answer = await worker.sessions.GetSession(get())
        assert answer.header.revision == 3
        assert answer.header.journal_id == world.journal.id
        assert answer.session.state == SessionState.SESSION_STATE_QUEUED
        assert (answer.session.sdk_app_id, answer.session.session_id) == (APP, SESSION)


async def test_a_session_is_returned_as_it_was_at_every_revision():
    async with service(*life(*CLOSED)) as (_, worker):
        states = []
        for revision in range(1, 9):
            answer = await worker.sessions.GetSession(get(as_of_revision=revision))
            assert answer.header.revision == revision
            assert answer.session.revision == revision
            states.append(SessionState.Name(answer.session.state).removeprefix("SESSION_STATE_"))
        assert states == [
            *("CHATBOT", "TRANSFERRING", "QUEUED"),
            *("WITH_AGENT", "WITH_AGENT", "WITH_AGENT", "CLOSING", "ENDED"),
        ]


async def test_a_session_is_returned_as_it_was_known_at_a_time():
    bodies = life(*QUEUE)
    arrivals = [
        unnumbered(entry(place, each, received_at=NOON + 1_000 * place))
        for place, each in enumerate(bodies, 1)
    ]
    async with service(*arrivals) as (_, worker):
        for time, revision in ((1_000, 1), (1_999, 1), (2_000, 2), (3_500, 3), (99_000, 3)):
            answer = await worker.sessions.GetSession(get(as_of_time=timestamp(NOON + time)))
            assert answer.header.revision == answer.session.revision == revision
        error = await refusal(worker.sessions.GetSession(get(as_of_time=timestamp(NOON + 999))))
        assert reason(error) == "SESSION_NOT_FOUND"
        assert str(error.details()).endswith("had not begun at that time")


@pytest.mark.parametrize(
    "wrong",
    [get(as_of_time=timestamp(NOON), as_of_revision=1), get(as_of_time=Timestamp(nanos=-1))],
)
async def test_a_time_to_answer_for_must_be_one_and_alone(wrong: GetSessionRequest):
    async with service(*life(*QUEUE)) as (_, worker):
        assert fields(await refusal(worker.sessions.GetSession(wrong))) == ["as_of_time"]


async def test_as_of_a_revision_before_it_began_a_session_is_not_found():
    other = body("SessionBegin", NOON, session_id="other")
    async with service(other, *life(*QUEUE)) as (_, worker):
        error = await refusal(worker.sessions.GetSession(get(as_of_revision=1)))
        assert (error.code(), reason(error)) == (
            grpc.StatusCode.NOT_FOUND,
            "SESSION_NOT_FOUND",
        )


async def test_an_unknown_session_is_not_found():
    async with service() as (_, worker):
        error = await refusal(worker.sessions.GetSession(get()))
        assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")


async def test_an_error_says_what_is_known_of_a_session_that_has_not_begun():
    early = life(*QUEUE, session_id="early")[1:]
    other = body("SessionBegin", NOON, session_id="other")
    async with service(early[0], other, *life(*QUEUE), early[1]) as (_, worker):
        for request, sentence in (
            (
                get(session_id="nobody"),
                f'no session "nobody" in app {APP}: no callback has named it',
            ),
            (
                get(session_id="early"),
                f'session "early" in app {APP} has not begun: 2 callbacks of it were rejected '
                "or not recognised, because no SessionBegin has come",
            ),
            (
                get(as_of_revision=2),
                f'session "{SESSION}" in app {APP} had not begun at revision 2',
            ),
            (
                get(sdk_app_id=7),
                f'no session "{SESSION}": app 7 is not configured; here: {APP}',
            ),
        ):
            error = await refusal(worker.sessions.GetSession(request))
            assert (reason(error), error.details()) == ("SESSION_NOT_FOUND", sentence)


async def test_an_error_shows_a_long_id_short_and_in_one_line():
    async with service() as (_, worker):
        error = await refusal(worker.sessions.GetSession(get(session_id="x\n" * 400)))
        assert reason(error) == "SESSION_NOT_FOUND"
        assert "\n" not in str(error.details())
        assert len(str(error.details())) < 300


async def test_one_rejected_callback_is_spoken_of_in_the_singular():
    async with service(life(*QUEUE)[1]) as (_, worker):
        error = await refusal(worker.sessions.GetSession(get()))
        assert "1 callback of it was rejected" in str(error.details())


async def test_a_value_that_cannot_be_selected_is_named_together_with_those_that_can():
    async with service() as (_, worker):
        request = ListSessionsRequest(filter=SessionFilter(states=[99]))  # type: ignore[list-item]
        error = await refusal(worker.sessions.ListSessions(request))
        assert str(error.details()).startswith(
            "filter.states cannot have 99: choose from SESSION_STATE_CHATBOT, "
        )


async def test_of_many_values_that_cannot_be_selected_a_few_are_named():
    async with service() as (_, worker):
        wanted: Any = range(100, 200)
        request = ListSessionsRequest(filter=SessionFilter(states=wanted))
        error = await refusal(worker.sessions.ListSessions(request))
        assert fields(error) == ["filter.states"]
        assert "cannot have 100, 101, 102, 103, 104 and 95 more: choose" in str(error.details())


async def test_a_revision_in_the_future_is_out_of_range():
    async with service(*life(*QUEUE)) as (_, worker):
        error = await refusal(worker.sessions.GetSession(get(as_of_revision=4)))
        assert error.code() is grpc.StatusCode.OUT_OF_RANGE
        assert reason(error) == "REVISION_IN_FUTURE"


async def test_what_is_wrong_with_a_request_is_told_by_field():
    async with service() as (_, worker):
        error = await refusal(worker.sessions.GetSession(GetSessionRequest()))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (reason(error), fields(error)) == ("INVALID_REQUEST", ["session_id"])
        error = await refusal(worker.sessions.GetSession(get(min_revision=-1, as_of_revision=-1)))
        assert fields(error) == ["min_revision", "as_of_revision"]
        error = await refusal(worker.sessions.GetSession(get(sdk_app_id=-1)))
        assert fields(error) == ["sdk_app_id"]


async def test_the_app_may_be_left_out_only_where_there_is_one():
    async with service(*life(*QUEUE), apps=(APP, 7)) as (_, worker):
        error = await refusal(worker.sessions.GetSession(get()))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert reason(error) == "SDK_APP_ID_REQUIRED"
        assert (await worker.sessions.GetSession(get(sdk_app_id=APP))).session.session_id
        assert reason(await refusal(worker.sessions.GetSession(get(sdk_app_id=7)))) == (
            "SESSION_NOT_FOUND"
        )


async def test_one_session_id_under_two_apps_is_two_sessions():
    async with service(*life(*QUEUE[:2]), apps=(APP, 7)) as (world, worker):
        await worker.revision(world.append(*life(*QUEUE), app=7))
        for app, revisions in ((APP, [1, 2, 2, 2, 2]), (7, [None, None, 3, 4, 5])):
            for asked, found in enumerate(revisions, 1):
                call = worker.sessions.GetSession(get(sdk_app_id=app, as_of_revision=asked))
                if found is None:
                    assert reason(await refusal(call)) == "SESSION_NOT_FOUND"
                else:
                    session = (await call).session
                    assert (session.sdk_app_id, session.revision) == (app, found)
            now = (await worker.sessions.GetSession(get(sdk_app_id=app))).session
            assert (now.sdk_app_id, now.revision) == (app, revisions[-1])
            request = BatchGetSessionsRequest(keys=[SessionKey(sdk_app_id=app, session_id=SESSION)])
            assert list((await worker.sessions.BatchGetSessions(request)).sessions) == [now]


async def test_a_caller_reads_its_writes():
    async with service() as (world, worker):
        for place, each in enumerate(life(*CLOSED), 1):
            waiting = worker.sessions.GetSession(get(min_revision=place), timeout=PATIENCE)
            await began(waiting, worker)
            assert world.append(each) == place
            answer = await waiting
            assert answer.header.revision >= place
            assert answer.session.revision == place


async def test_a_revision_that_does_not_come_ends_the_wait_with_a_reason():
    async with service(limits=Limits(revision_seconds=0.2)) as (_, worker):
        error = await refusal(worker.sessions.GetSession(get(min_revision=9)))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert reason(error) == "REVISION_NOT_REACHED"
        request = ListSessionsRequest(min_revision=9)
        error = await refusal(worker.sessions.ListSessions(request))
        assert reason(error) == "REVISION_NOT_REACHED"


async def test_a_wait_ends_with_a_reason_before_the_deadline_of_the_call():
    async with service() as (_, worker):

        async def told() -> bool:
            error = await refusal(worker.sessions.GetSession(get(min_revision=9), timeout=1.0))
            return error.trailing_metadata() and reason(error) == "REVISION_NOT_REACHED"

        await until(told)  # on a busy machine the client may be first


async def test_a_batch_lists_what_is_missing_and_answers_repeated_keys_once():
    async with service(*life(*QUEUE), *life(*CLOSED, session_id="b")) as (_, worker):
        names = ["b", "nobody", SESSION, "b"]
        keys = [SessionKey(session_id=name) for name in names]
        keys.append(SessionKey(sdk_app_id=APP, session_id="b"))
        answer = await worker.sessions.BatchGetSessions(BatchGetSessionsRequest(keys=keys))
        assert [session.session_id for session in answer.sessions] == ["b", SESSION]
        assert [(key.sdk_app_id, key.session_id) for key in answer.missing] == [(APP, "nobody")]
        assert answer.header.revision == 11


@pytest.mark.parametrize("count", [0, 1_001])
async def test_a_batch_has_one_to_a_thousand_keys(count: int):
    async with service() as (_, worker):
        keys = [SessionKey(session_id=f"s{n}") for n in range(count)]
        error = await refusal(worker.sessions.BatchGetSessions(BatchGetSessionsRequest(keys=keys)))
        assert (reason(error), fields(error)) == ("INVALID_REQUEST", ["keys"])


def many(count: int) -> list[bytes]:
    """Sessions of three users and agents, some ended, some of one millisecond."""
    bodies: list[bytes] = []
    for n in range(count):
        events = (QUEUE, SERVED, CLOSED)[n % 3]
        bodies += life(
            *events,
            session_id=f"s{n:03}",
            start=NOON + 1_000 * (n // 2 * 2),
            AgentId=f"agent-{n % 5}",
            ClientUserId=f"user-{n % 4}",
            ChannelType=("SDK", "Web (H5)")[n % 2],
        )
    return bodies


def special() -> list[bytes]:
    """Sessions that were handed on, rated, rejected in part, or sent back."""
    return [
        *life(*SERVED[:4], "AgentForward", "AgentForward", session_id="handed on", AgentId="other"),
        *life(*SERVED, session_id="rated", SatisfactionSelected=4),
        *life("SessionBegin", "SessionBegin", session_id="rejected"),
    ]


async def pages(worker: Any, **fields: Any) -> list[Any]:
    """All sessions of a list, page by page."""
    sessions: list[Any] = []
    token = ""
    while True:
        request = ListSessionsRequest(**fields, page_token=token)
        answer = await worker.sessions.ListSessions(request)
        assert len(answer.sessions) <= (fields.get("page_size") or 100)
        sessions += answer.sessions
        token = answer.next_page_token
        if not token:
            return sessions


STATES = SessionState
FILTERS = {
    "everything": (SessionFilter(), lambda _: True),
    "states": (
        SessionFilter(states=[STATES.SESSION_STATE_QUEUED, STATES.SESSION_STATE_ENDED]),
        lambda s: s.state in (STATES.SESSION_STATE_QUEUED, STATES.SESSION_STATE_ENDED),
    ),
    "agents": (
        SessionFilter(agent_ids=["agent-1", "agent-3", ""]),
        lambda s: s.agent_id in ("agent-1", "agent-3", ""),
    ),
    "users and channel": (
        SessionFilter(client_user_ids=["user-1", "user-2"], channel_types=["SDK"]),
        lambda s: s.client_user_id in ("user-1", "user-2") and s.channel_type == "SDK",
    ),
    "no end reason": (SessionFilter(end_reasons=[0]), lambda s: s.end_reason == 0),
    "begun": (
        SessionFilter(
            begun=TimeRange(start_time=timestamp(NOON + 4_000), end_time=timestamp(NOON + 10_000))
        ),
        lambda s: NOON + 4_000 <= s.begun_at.ToMilliseconds() < NOON + 10_000,
    ),
    "ended": (
        SessionFilter(ended=TimeRange(start_time=timestamp(NOON + 75_000))),
        lambda s: s.HasField("ended_at") and s.ended_at.ToMilliseconds() >= NOON + 75_000,
    ),
    "active": (
        SessionFilter(active=TimeRange(end_time=timestamp(NOON + 60_000))),
        lambda s: s.last_event_at.ToMilliseconds() < NOON + 60_000,
    ),
    "agents at any time": (
        SessionFilter(ever_agent_ids=["agent-1", "other"]),
        lambda s: {"agent-1", "other"} & set(s.agent_ids),
    ),
    "ratings": (SessionFilter(ratings=[0, 4]), lambda s: s.satisfaction in (0, 4)),
    "forwards": (SessionFilter(min_forwards=1), lambda s: s.forwards >= 1),
    "rejected callbacks": (
        SessionFilter(min_rejected_events=1),
        lambda s: s.rejected_events >= 1,
    ),
    "never answered": (
        SessionFilter(never_answered=True),
        lambda s: s.HasField("transfer_requested_at") and not s.HasField("answered_at"),
    ),
    "unknown app": (SessionFilter(sdk_app_ids=[1]), lambda s: s.sdk_app_id == 1),
}


async def test_every_filter_in_every_order_lists_exactly_what_it_selects():
    async with service(*many(31), *special()) as (_, worker):
        everything = await pages(worker, order_by="begun_at")
        assert len(everything) == 34
        for selection, selects in FILTERS.values():
            for column in ("begun_at", "last_event_at", "ended_at", "state_since"):
                for direction in ("asc", "desc"):
                    listed = await pages(
                        worker, filter=selection, order_by=f"{column} {direction}", page_size=4
                    )
                    times = [getattr(s, column).ToMilliseconds() for s in listed]
                    assert times == sorted(times, reverse=direction == "desc")
                    assert sorted(s.session_id for s in listed) == [
                        s.session_id
                        for s in sorted(everything, key=lambda s: s.session_id)
                        if selects(s) and (column != "ended_at" or s.HasField("ended_at"))
                    ]


async def test_the_default_order_is_the_newest_first():
    async with service(*many(9)) as (_, worker):
        assert await pages(worker) == await pages(worker, order_by="begun_at desc")


async def test_a_page_token_is_good_for_its_own_request_only():
    async with service(*many(9)) as (_, worker):
        first = await worker.sessions.ListSessions(ListSessionsRequest(page_size=2))
        token = first.next_page_token
        assert SESSION not in token
        wrong = [
            ListSessionsRequest(page_token=token, order_by="begun_at asc"),
            ListSessionsRequest(page_token=token, filter=SessionFilter(agent_ids=["a"])),
            ListSessionsRequest(page_token=token[:-1]),
            ListSessionsRequest(page_token="!" + token[1:]),
            ListSessionsRequest(page_token="x" * 5_000),
            ListSessionsRequest(page_token="å"),
        ]
        for request in wrong:
            error = await refusal(worker.sessions.ListSessions(request))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert (reason(error), fields(error)) == ("INVALID_PAGE_TOKEN", ["page_token"])


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ListSessionsRequest(page_size=-1), "page_size"),
        (ListSessionsRequest(order_by="session_id"), "order_by"),
        (ListSessionsRequest(order_by="begun_at DESC"), "order_by"),
        (ListSessionsRequest(filter=SessionFilter(states=[99])), "filter.states"),
        (ListSessionsRequest(filter=SessionFilter(states=[0])), "filter.states"),
        (ListSessionsRequest(filter=SessionFilter(end_reasons=[99])), "filter.end_reasons"),
        (ListSessionsRequest(filter=SessionFilter(sdk_app_ids=[0])), "filter.sdk_app_ids"),
        (ListSessionsRequest(filter=SessionFilter(begun=TimeRange())), "filter.begun"),
        (
            ListSessionsRequest(
                filter=SessionFilter(
                    active=TimeRange(start_time=timestamp(5), end_time=timestamp(5))
                )
            ),
            "filter.active.end_time",
        ),
        (
            ListSessionsRequest(filter=SessionFilter(agent_ids=["a"] * 101)),
            "filter.agent_ids",
        ),
        (
            ListSessionsRequest(filter=SessionFilter(ever_agent_ids=["a" * 257])),
            "filter.ever_agent_ids",
        ),
        (ListSessionsRequest(filter=SessionFilter(ratings=[6])), "filter.ratings"),
        (ListSessionsRequest(filter=SessionFilter(min_forwards=-1)), "filter.min_forwards"),
        (
            ListSessionsRequest(filter=SessionFilter(min_rejected_events=-1)),
            "filter.min_rejected_events",
        ),
    ],
)
async def test_a_list_that_makes_no_sense_names_the_field(
    request_: ListSessionsRequest, field: str
):
    async with service() as (_, worker):
        error = await refusal(worker.sessions.ListSessions(request_))
        assert (reason(error), fields(error)) == ("INVALID_REQUEST", [field])


async def test_a_range_within_one_millisecond_is_a_range():
    within = TimeRange(start_time=Timestamp(nanos=1_000), end_time=Timestamp(nanos=2_000))
    async with service(*life("SessionBegin")) as (_, worker):
        request = ListSessionsRequest(filter=SessionFilter(begun=within))
        assert not (await worker.sessions.ListSessions(request)).sessions


async def test_counts_have_the_figures_of_each_group():
    async with service(*many(12)) as (_, worker):
        everything = await pages(worker)
        request = CountSessionsRequest(group_by=CountGroup.COUNT_GROUP_STATE)
        answer = await worker.sessions.CountSessions(request)
        assert [(g.key, g.sessions) for g in answer.groups] == [
            ("SESSION_STATE_ENDED", 4),
            ("SESSION_STATE_QUEUED", 4),
            ("SESSION_STATE_WITH_AGENT", 4),
        ]
        for group in answer.groups:
            members = [s for s in everything if STATES.Name(s.state) == group.key]
            for figure in ("queue_wait", "first_response", "handle_time"):
                values = [
                    getattr(s, figure).ToMilliseconds() for s in members if s.HasField(figure)
                ]
                summary = getattr(group, figure)
                assert summary.sessions == len(values)
                assert summary.HasField("mean") == bool(values)
                if values:
                    assert summary.mean.ToMilliseconds() == sum(values) // len(values)
                    assert summary.max.ToMilliseconds() == max(values)
            rated = [s.satisfaction for s in members if s.satisfaction]
            assert group.ratings == len(rated)
            assert group.mean_satisfaction == (sum(rated) / len(rated) if rated else 0)


async def test_counts_group_by_what_is_asked_and_nothing_has_no_groups():
    async with service(*many(12)) as (_, worker):

        async def keys(group_by: int, **filters: Any) -> list[tuple[str, int]]:
            request = CountSessionsRequest(group_by=group_by, filter=SessionFilter(**filters))
            answer = await worker.sessions.CountSessions(request)
            assert answer.other_sessions == 0
            return [(group.key, group.sessions) for group in answer.groups]

        assert await keys(CountGroup.COUNT_GROUP_UNSPECIFIED) == [("", 12)]
        assert await keys(CountGroup.COUNT_GROUP_CHANNEL_TYPE) == [("SDK", 6), ("Web (H5)", 6)]
        assert await keys(CountGroup.COUNT_GROUP_SDK_APP) == [(str(APP), 12)]
        assert await keys(CountGroup.COUNT_GROUP_END_REASON) == [
            ("END_REASON_UNSPECIFIED", 8),
            ("END_REASON_USER", 4),
        ]
        assert ("", 4) in await keys(CountGroup.COUNT_GROUP_AGENT)
        assert await keys(CountGroup.COUNT_GROUP_AGENT, agent_ids=["nobody"]) == []
        error = await refusal(
            worker.sessions.CountSessions(CountSessionsRequest(group_by=99))  # type: ignore[arg-type]
        )
        assert (reason(error), fields(error)) == ("INVALID_REQUEST", ["group_by"])


async def test_more_than_a_thousand_groups_are_summed_up():
    bodies = [
        body("SessionBegin", NOON, session_id=f"s{n}", ChannelType=f"channel-{n}")
        for n in range(1_005)
    ]
    async with service(*bodies) as (_, worker):
        request = CountSessionsRequest(group_by=CountGroup.COUNT_GROUP_CHANNEL_TYPE)
        answer = await worker.sessions.CountSessions(request)
        assert (len(answer.groups), answer.other_sessions) == (1_000, 5)


def wait(*states: int, session_id: str = SESSION) -> WaitForStateRequest:
    return WaitForStateRequest(session_id=session_id, states=states)


async def test_a_state_that_the_session_is_in_is_returned_at_once():
    async with service(*life(*QUEUE)) as (_, worker):
        answer = await worker.sessions.WaitForState(wait(STATES.SESSION_STATE_QUEUED))
        assert (answer.header.revision, answer.session.revision) == (3, 3)


async def test_a_state_that_lasted_for_one_revision_is_seen():
    async with service(*life(*QUEUE[:1])) as (world, worker):
        call = worker.sessions.WaitForState(wait(STATES.SESSION_STATE_TRANSFERRING))
        await began(call, worker)
        world.append(*life(*CLOSED)[1:])
        answer = await call
        assert answer.header.revision == 2
        assert answer.session.state == STATES.SESSION_STATE_TRANSFERRING


async def test_a_session_may_be_waited_for_before_it_begins():
    async with service() as (world, worker):
        calls = [
            worker.sessions.WaitForState(wait(STATES.SESSION_STATE_ENDED)),
            worker.sessions.WaitForState(wait(STATES.SESSION_STATE_CHATBOT)),
        ]
        for call in calls:
            await began(call, worker)
        world.append(*life(*CLOSED))
        assert [(await call).header.revision for call in calls] == [8, 1]


async def test_a_state_that_does_not_come_ends_the_wait_with_a_reason():
    async with service(*life(*QUEUE), limits=Limits(state_seconds=0.2)) as (_, worker):
        request = wait(STATES.SESSION_STATE_ENDED)
        error = await refusal(worker.sessions.WaitForState(request))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert reason(error) == "STATE_NOT_REACHED"


@pytest.mark.parametrize("states", [(), (0,), (99,)])
async def test_only_states_that_a_session_can_be_in_are_waited_for(states: tuple[int, ...]):
    async with service() as (_, worker):
        error = await refusal(worker.sessions.WaitForState(wait(*states)))
        assert (reason(error), fields(error)) == ("INVALID_REQUEST", ["states"])

"""ReportService on a real channel: figures by interval and group, corrected by late callbacks."""

from datetime import UTC
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from desk.v1.figures_pb2 import Thresholds
from desk.v1.report_service_pb2 import (
    GetReportRequest,
    GetReportResponse,
    IntervalLength,
    ReportGroup,
    ReportRow,
)
from desk.v1.session_pb2 import TimeRange
from journal.entry import unnumbered
from service.records import duration, timestamp
from service.rpc.limits import Limits
from service.rpc.live_board import Centre
from tests.support.callbacks import APP, NOON, SESSION, body, entry, life
from tests.support.rpc import Worker, fields, reason, refusal, service

HOUR, DAY = 3_600_000, 86_400_000
FULL = NOON - 40 * 60_000
"""NOON is 40 minutes past an hour."""

QUEUE = ("SessionBegin", "TransferringToHuman", "TransferringToHumanWait")
ANSWERED = (*QUEUE, "TransferToHumanSuccess", "SessionUserEnd", "SessionEnd")
LEFT = (*QUEUE, "SessionPendingAutoFinishEnd", "SessionEnd")

AGENT, CHANNEL = ReportGroup.REPORT_GROUP_AGENT, ReportGroup.REPORT_GROUP_CHANNEL_TYPE
BY_HOUR, BY_DAY = IntervalLength.INTERVAL_LENGTH_HOUR, IntervalLength.INTERVAL_LENGTH_DAY


async def report(
    worker: Worker, start: int = FULL, end: int = FULL + 3 * HOUR, **options: Any
) -> GetReportResponse:
    between = TimeRange(start_time=timestamp(start), end_time=timestamp(end))
    found: GetReportResponse = await worker.report.GetReport(
        GetReportRequest(range=between, **options)
    )
    return found


async def only_row(worker: Worker, **options: Any) -> ReportRow:
    found = await report(worker, **options)
    [row] = [row for each in found.intervals for row in each.rows]
    return row


async def test_figures_stand_in_the_interval_of_their_event():
    # Asked for 20 s before the full hour, answered at it, over 10 s later.
    talk = life(*ANSWERED, start=FULL + HOUR - 30_000, AgentId="ann")
    async with service(*talk) as (_, worker):
        found = await report(worker, interval=BY_HOUR)
        starts = [each.start_time.ToMilliseconds() for each in found.intervals]
        assert starts == [FULL, FULL + HOUR, FULL + 2 * HOUR]
        assert [len(each.rows) for each in found.intervals] == [1, 1, 0]
        first, second = (each.rows[0] for each in found.intervals[:2])
        assert (first.service.answered, first.outcome.begun, first.handling.handled) == (1, 1, 0)
        assert (second.service.answered, second.outcome.begun, second.handling.handled) == (0, 0, 1)


async def test_handle_time_is_cut_at_the_bounds_of_an_interval_and_contacts_are_not():
    talk = life(*ANSWERED, start=FULL + HOUR - 35_000, AgentId="ann")
    async with service(*talk) as (_, worker):
        first, second = (await report(worker, end=FULL + 2 * HOUR, interval=BY_HOUR)).intervals
        before, after = first.rows[0].handling, second.rows[0].handling
        assert (before.session_time, after.session_time) == (duration(5_000), duration(5_000))
        assert (before.handled, after.handled) == (1, 0)
        assert before.average_handle_time == duration(10_000)


async def test_an_agent_with_two_sessions_at_once_has_a_concurrency():
    one = life(*ANSWERED, session_id="one", start=NOON, AgentId="ann")
    other = life(*ANSWERED, session_id="other", start=NOON + 5_000, AgentId="ann")
    async with service(*one, *other) as (_, worker):
        row = await only_row(worker, group_by=[AGENT])
        assert row.agent_id == "ann"
        handling = row.handling
        assert (handling.session_time, handling.busy_time) == (duration(20_000), duration(15_000))
        assert handling.concurrency == 20 / 15


async def test_rows_are_grouped_and_filtered():
    async with service(
        *life(*ANSWERED, session_id="ann's", AgentId="ann"),
        *life(*ANSWERED, session_id="bob's", AgentId="bob", ChannelType="Web"),
        *life(*LEFT, session_id="nobody's"),
    ) as (_, worker):
        [interval] = (await report(worker, group_by=[CHANNEL, AGENT])).intervals
        keys = [(row.channel_type, row.agent_id) for row in interval.rows]
        assert keys == [("SDK", ""), ("SDK", "ann"), ("Web", "bob")]
        assert [row.service.answered for row in interval.rows] == [0, 1, 1]
        row = await only_row(worker, agent_ids=["bob"])
        assert (row.service.answered, row.agent_id) == (1, "")
        assert (await only_row(worker, channel_types=["SDK"])).service.offered == 2
        strict = Thresholds(answer_within=duration(1_000))
        assert (await only_row(worker, thresholds=strict)).service.service_level == 0


async def test_the_total_is_not_the_sum_of_its_rows():
    one = life(*ANSWERED, session_id="one", start=NOON, AgentId="ann")
    other = life(
        *ANSWERED, session_id="other", start=NOON + 5_000, AgentId="ann", ChannelType="Web"
    )
    async with service(*one, *other, *life(*LEFT, start=NOON + HOUR)) as (_, worker):
        found = await report(worker, interval=BY_HOUR, group_by=[CHANNEL])
        rows = [row for each in found.intervals for row in each.rows]
        assert [row.handling.busy_time for row in rows] == [duration(10_000)] * 2 + [duration(0)]
        assert [row.service.service_level for row in rows] == [1, 1, 0]
        total = found.total
        assert (total.service.offered, total.service.service_level) == (3, 2 / 3)
        assert total.service.speed_of_answer.sessions == 2
        assert (total.handling.busy_time, total.handling.concurrency) == (duration(15_000), 20 / 15)
        assert total.outcome.begun == 3
        assert (total.sdk_app_id, total.channel_type, total.agent_id) == (0, "", "")
        assert not (await report(worker, start=NOON + 2 * HOUR)).HasField("total")


async def test_outcomes_have_their_ratings_and_repeat_contacts():
    rated = body("SatisfactionSelected", NOON + 55_000, session_id="first", SatisfactionSelected=4)
    async with service(
        *life(*ANSWERED, session_id="first", AgentId="ann"),
        rated,
        *life(
            "SessionBegin", "SessionUserEnd", "SessionEnd", session_id="again", start=NOON + HOUR
        ),
        *life(*ANSWERED, session_id="else", ClientUserId="another"),
    ) as (_, worker):
        outcome = (await only_row(worker)).outcome
        assert (outcome.begun, outcome.over, outcome.contained) == (3, 3, 1)
        assert (outcome.ratings, outcome.csat, outcome.mean_rating) == (1, 1, 4)
        assert (outcome.resolvable, outcome.repeat_contacts) == (3, 1)
        assert outcome.first_contact_resolution == 2 / 3
        assert (await report(worker)).total.outcome == outcome


@pytest.mark.parametrize(
    ("days", "provisional"), [(6, True), (8, False)], ids=["within a week", "after a week"]
)
async def test_a_resolution_is_provisional_for_a_week(days: int, provisional: bool):
    centre = Centre(UTC, now=lambda: FULL + 3 * HOUR + days * DAY)
    async with service(*life(*ANSWERED), centre=centre) as (_, worker):
        assert (await only_row(worker)).outcome.resolution_provisional is provisional


async def test_a_late_callback_changes_its_interval_and_the_report_says_so():
    async with service(*life(*LEFT)) as (world, worker):
        before = await report(worker, interval=BY_HOUR)
        assert before.intervals[0].rows[0].service.abandoned == 1
        revision = world.append(body("TransferToHumanSuccess", NOON + 25_000, AgentId="eve"))
        await worker.revision(revision)
        since = before.header.revision
        after = await report(worker, interval=BY_HOUR, since_revision=since)
        figures = after.intervals[0].rows[0].service
        assert (figures.abandoned, figures.answered) == (0, 1)
        assert [each.changed for each in after.intervals] == [True, False, False]
        assert after.intervals[0].revision == revision
        again = await report(worker, interval=BY_HOUR, since_revision=revision)
        assert not any(each.changed for each in again.intervals)


async def test_an_interval_that_a_session_leaves_has_changed():
    ended = body("SessionEnd", NOON + 2 * HOUR)
    async with service(*life("SessionBegin", "TransferringToHuman"), ended) as (world, worker):
        since = world.journal.head()
        await worker.revision(world.append(body("SessionEnd", NOON + 30_000)))
        after = await report(worker, interval=BY_HOUR, since_revision=since)
        assert [each.changed for each in after.intervals] == [True, True, True]


async def test_a_replica_that_is_behind_an_earlier_report_does_not_say_that_nothing_has_changed():
    async with service(*life(*LEFT), limits=Limits(revision_seconds=0.05)) as (world, worker):
        error = await refusal(report(worker, since_revision=world.journal.head() + 1))
        assert reason(error) == "REVISION_NOT_REACHED"


CHAT = ("SessionBegin", "ChatBot.UserSendMsg", "SessionUserEnd", "SessionEnd")


async def test_an_interval_has_changed_when_a_later_session_turns_out_to_be_of_another_user():
    async with service(
        *life(*CHAT, session_id="first", ClientUserId="guest"),
        body("SessionBegin", NOON + HOUR, session_id="again", ClientUserId=""),
        body("ChatBot.UserSendMsg", NOON + HOUR + 2, session_id="again", ClientUserId="guest"),
    ) as (world, worker):
        before = await report(worker, interval=BY_HOUR)
        assert before.intervals[0].rows[0].outcome.repeat_contacts == 1
        earlier = body("ChatBot.UserSendMsg", NOON + HOUR + 1, session_id="again", ClientUserId="x")
        await worker.revision(world.append(earlier))
        since = before.header.revision
        after = await report(worker, interval=BY_HOUR, since_revision=since)
        assert after.intervals[0].rows[0].outcome.repeat_contacts == 0
        assert after.intervals[0].changed


async def test_an_interval_has_changed_when_a_later_session_turns_out_to_be_of_its_user():
    async with service(
        *life(*CHAT, session_id="first"),
        body("SessionBegin", NOON + HOUR, session_id="again", ClientUserId=""),
    ) as (world, worker):
        since = world.journal.head()
        named = body("ChatBot.UserSendMsg", NOON + HOUR + 1, session_id="again")
        revision = world.append(named)
        await worker.revision(revision)
        after = await report(worker, interval=BY_HOUR, since_revision=since)
        assert after.intervals[0].rows[0].outcome.repeat_contacts == 1
        assert after.intervals[0].changed
        world.append(body("ChatBot.UserSendMsg", NOON + HOUR + 2, session_id="again"))
        later = await report(worker, interval=BY_HOUR, since_revision=revision)
        assert not later.intervals[0].changed


async def test_an_interval_has_changed_when_a_later_session_turns_out_to_begin_in_time():
    begins = [
        unnumbered(entry(1, body("SessionBegin", time, session_id="again"), received_at=time))
        for time in (NOON + 8 * DAY, NOON + 6 * DAY)
    ]
    async with service(*life(*CHAT, session_id="first"), begins[0]) as (world, worker):
        since = world.journal.head()
        await worker.revision(world.append(begins[1]))
        after = await report(worker, interval=BY_HOUR, since_revision=since)
        assert after.intervals[0].rows[0].outcome.repeat_contacts == 1
        assert after.intervals[0].changed


async def test_after_something_was_forgotten_every_interval_may_have_changed():
    async with service(*life(*LEFT)) as (world, worker):
        since = world.journal.head()
        await worker.revision(world.forget(SESSION))
        after = await report(worker, interval=BY_HOUR, since_revision=since)
        assert all(each.changed for each in after.intervals)
        assert not any(each.rows for each in after.intervals)


async def test_a_day_begins_at_midnight_in_the_zone_and_may_have_25_hours():
    centre = Centre(ZoneInfo("Europe/Berlin"), "Europe/Berlin")
    october_27 = 1_729_980_000_000  # midnight in Berlin; summer time ends
    async with service(centre=centre) as (_, worker):
        found = await report(worker, october_27 + HOUR, october_27 + 2 * HOUR, interval=BY_DAY)
        [day] = found.intervals
        assert day.start_time.ToMilliseconds() == october_27
        assert day.end_time.ToMilliseconds() == october_27 + 25 * HOUR
        assert found.time_zone == "Europe/Berlin"
        hours = await report(worker, october_27, october_27 + 25 * HOUR, interval=BY_HOUR)
        assert len(hours.intervals) == 25


async def test_a_report_with_too_many_rows_is_refused():
    bodies = [body("SessionBegin", NOON, session_id=f"s{n}", ChannelType=f"c{n}") for n in range(4)]
    async with service(*bodies, limits=Limits(report_rows=3)) as (_, worker):
        assert reason(await refusal(report(worker, group_by=[CHANNEL]))) == "TOO_MANY_SESSIONS"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"range": TimeRange(start_time=timestamp(NOON))}, "range.end_time"),
        ({}, "range"),
        ({"start": NOON, "end": NOON}, "range.end_time"),
        ({"end": NOON + 401 * DAY}, "range"),
        ({"end": NOON + 126 * DAY, "interval": BY_HOUR}, "range"),
        ({"group_by": [0]}, "group_by"),
        ({"group_by": [1, 1]}, "group_by"),
        ({"since_revision": -1}, "since_revision"),
    ],
)
async def test_a_wrong_request_is_named(options: dict[str, Any], field: str):
    async with service() as (_, worker):
        options = dict(options)
        if "range" in options or not options:
            call = worker.report.GetReport(GetReportRequest(**options))
        else:
            between = TimeRange(
                start_time=timestamp(options.pop("start", NOON)),
                end_time=timestamp(options.pop("end", NOON + DAY)),
            )
            call = worker.report.GetReport(GetReportRequest(range=between, **options))
        assert field in fields(await refusal(call))


async def test_a_change_of_another_app_is_none_of_the_report():
    async with service(*life(*LEFT)) as (world, worker):
        since = world.journal.head()
        world.append(*life(*QUEUE, session_id="other"), app=APP + 1)
        world.append(body("SessionEnd", NOON + 5_000, session_id="other"), app=APP + 1)
        await worker.revision(world.forget("other", app=APP + 1))
        found = await report(worker, sdk_app_ids=[APP], since_revision=since)
        assert [each.changed for each in found.intervals] == [False]
        assert found.intervals[0].revision == since
        [all_apps] = (await report(worker, since_revision=since)).intervals
        assert all_apps.changed

"""Compares board and report with the figures that are expected of a run, over the public API."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from desk.client import Client
from desk.v1.board_service_pb2 import Board, BoardOptions
from desk.v1.figures_pb2 import Thresholds
from desk.v1.report_service_pb2 import IntervalLength, ReportGroup, ReportRow
from desk.v1.session_pb2 import SessionFilter, SessionState
from simulator.figures import (
    Expected,
    Visit,
    agents,
    live,
    offers,
    open_visits,
    service,
    unanswered,
    waiting,
)
from simulator.ledger import Ledger
from simulator.report import Report

MAX_LISTED = 200
"""Sessions and agents in a list of a board, at most."""

_STATE = "SESSION_STATE_"

_REPORTS = (
    (IntervalLength.INTERVAL_LENGTH_QUARTER, (), lambda _channel, _agent: ""),
    (
        IntervalLength.INTERVAL_LENGTH_HOUR,
        (ReportGroup.REPORT_GROUP_CHANNEL_TYPE,),
        lambda channel, _agent: channel,
    ),
    (
        IntervalLength.INTERVAL_LENGTH_DAY,
        (ReportGroup.REPORT_GROUP_AGENT,),
        lambda _channel, agent: agent,
    ),
)
"""Reports that are compared: intervals, groups, and the key of a group."""


async def verify_figures(client: Client, ledger: Ledger, revision: int, report: Report) -> None:
    """Compare all figures, unless the app has other sessions than those that were compared.

    Args:
        client: of the service.
        ledger: of the run; all of it has arrived.
        revision: that the service has to have reached.
        report: gets the differences.
    """
    visits = ledger.visits()
    app = SessionFilter(sdk_app_ids=[ledger.sdk_app_id])
    counted = await client.count_sessions(app)
    if (
        report.skipped
        or not visits
        or sum(group.sessions for group in counted.groups) != len(visits)
    ):
        report.figures_skipped = True
        return
    options = BoardOptions(sdk_app_ids=[ledger.sdk_app_id], max_listed=MAX_LISTED)
    found = await client.get_board(options, min_revision=revision)
    _compare_board(report, visits, found.board)
    for interval, groups, key in _REPORTS:
        await _compare_report(client, ledger, visits, revision, report, interval, groups, key)


def _compare_board(report: Report, visits: Sequence[Visit], board: Board) -> None:
    start, end = board.day_start.ToMilliseconds(), board.day_end.ToMilliseconds()
    still_open = open_visits(visits, start)
    today = [each for each in offers(visits) if start <= each.at < end]
    channels = {each.session.channel_type for each in still_open} | {each.channel for each in today}
    cells = {each.channel_type: each.figures for each in board.groups}
    report.compare("board, channels", expected=sorted(channels), found=sorted(cells))
    limits = _limits(board.thresholds)
    expected = live(still_open) | {"today": service(today, *limits)}
    _compare(report, "board", expected, board.total)
    for name in channels & cells.keys():
        expected = live([each for each in still_open if each.session.channel_type == name])
        expected["today"] = service([each for each in today if each.channel == name], *limits)
        _compare(report, f"board {name}", expected, cells[name])
    _compare_lists(report, still_open, board)


def _compare_lists(report: Report, still_open: Sequence[Visit], board: Board) -> None:
    for name, expected in (
        ("waiting", waiting(still_open)),
        ("unanswered", unanswered(still_open)),
    ):
        listed = getattr(board, f"longest_{name}")
        found = [(each.since.ToMilliseconds(), each.session_id) for each in listed]
        report.compare(f"board, longest {name}", expected=expected[:MAX_LISTED], found=found)
        report.figures += len(found)
    busy = agents(still_open)
    _compare(report, "board", {"agent_count": len(busy)}, board)
    listed = [(each.agent_id, each.sessions, each.unanswered) for each in board.agents]
    report.compare("board, agents", expected=busy[:MAX_LISTED], found=listed)
    report.figures += len(listed)


async def _compare_report(
    client: Client,
    ledger: Ledger,
    visits: Sequence[Visit],
    revision: int,
    report: Report,
    interval: IntervalLength.ValueType,
    groups: Sequence[ReportGroup.ValueType],
    key: Any,
) -> None:
    found = await client.get_report(
        _moment(min(visit.session.begun_at for visit in visits) - 5_000),
        _moment(max(visit.session.last_event_at for visit in visits) + 1),
        interval=interval,
        group_by=groups,
        sdk_app_ids=[ledger.sdk_app_id],
        min_revision=revision,
    )
    starts = [each.start_time.ToMilliseconds() for each in found.intervals]
    bounds = [*starts, found.intervals[-1].end_time.ToMilliseconds()]
    limits = _limits(found.thresholds)
    expected = Expected(visits, bounds, key).rows(*limits)
    rows = {
        (place, row.agent_id or row.channel_type): row
        for place, each in enumerate(found.intervals)
        for row in each.rows
    }
    name = IntervalLength.Name(interval).removeprefix("INTERVAL_LENGTH_").lower()
    for where in sorted({*expected, *rows}):
        place, group = where
        subject = f"report by {name}, {_moment(bounds[place]):%Y-%m-%d %H:%M}Z {group}".rstrip()
        if where not in expected or where not in rows:
            report.differ(f"{subject}: {'missing' if where in expected else 'not expected'}")
        else:
            _compare_row(report, subject, expected[where], rows[where])
    [total] = Expected(visits, [bounds[0], bounds[-1]], lambda *_: "").rows(*limits).values()
    _compare_row(report, f"report by {name}, total", total, found.total or ReportRow())


def _compare_row(report: Report, subject: str, expected: Mapping[str, Any], row: ReportRow) -> None:
    for part, figures in expected.items():
        _compare(report, f"{subject}, {part}", figures, getattr(row, part))


def _compare(report: Report, subject: str, expected: Mapping[str, Any], found: Any) -> None:
    """Compare fields by name; those that are figures of their own, likewise."""
    for name, value in expected.items():
        if isinstance(value, dict) and name != "states":
            _compare(report, f"{subject}, {name}", value, getattr(found, name))
        else:
            report.figures += 1
            report.compare(f"{subject}, {name}", expected=value, found=_value(found, name))


def _value(message: Any, name: str) -> object:
    value = getattr(message, name)
    field = message.DESCRIPTOR.fields_by_name[name]
    if name == "states":
        return {SessionState.Name(e.state).removeprefix(_STATE): e.sessions for e in value}
    if field.has_presence and not message.HasField(name):
        return None
    return value.ToMilliseconds() if isinstance(value, Timestamp | Duration) else value


def _limits(thresholds: Thresholds) -> tuple[int, int]:
    return thresholds.answer_within.ToMilliseconds(), thresholds.short_abandon.ToMilliseconds()


def _moment(time: int) -> datetime:
    return datetime.fromtimestamp(time // 1000, UTC).replace(microsecond=time % 1000 * 1000)

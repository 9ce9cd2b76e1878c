"""Lines of one kind: the first at once, then one a period with the number left out."""

import logging

import pytest
import structlog

from command.throttle import Throttle, ThrottledLogger


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines(clock):
    """A logger, and the lines that it wrote."""
    seen = []

    def keep(_, __, event):
        seen.append(event)
        raise structlog.DropEvent

    throttle = Throttle(period=5.0, max_kinds=10, clock=clock)
    return structlog.wrap_logger(None, [throttle, keep]), seen


def test_the_first_of_a_kind_is_logged_at_once_and_the_others_are_counted(lines, clock):
    log, seen = lines
    for _ in range(1_000):
        log.warning("not_kept", reason="full", sdk_app_id=7, throttle="full")
    assert seen == [{"event": "not_kept", "reason": "full", "sdk_app_id": 7, "suppressed": 0}]
    clock.now += 4.9
    log.warning("not_kept", throttle="full")
    clock.now += 0.1
    log.warning("not_kept", throttle="full")
    log.warning("not_kept", throttle="full")
    assert seen[1:] == [{"event": "not_kept", "suppressed": 1_000}]
    clock.now += 5.0
    log.warning("not_kept", throttle="full")
    assert seen[2:] == [{"event": "not_kept", "suppressed": 1}]


def test_event_and_throttle_are_the_kind(lines):
    log, seen = lines
    for event, kind in (("a", "x"), ("a", "y"), ("b", "x"), ("a", "x"), ("a", ("x", "y"))):
        log.warning(event, kind=kind, throttle=kind)
    assert [(line["event"], line["kind"]) for line in seen] == [
        ("a", "x"),
        ("a", "y"),
        ("b", "x"),
        ("a", ("x", "y")),
    ]


def test_an_event_without_a_throttle_is_always_logged(lines):
    log, seen = lines
    for number in range(20):
        log.warning("started", number=number)
    assert seen == [{"event": "started", "number": number} for number in range(20)]


def test_kinds_without_number_make_few_lines_and_hide_no_other_event(lines, clock):
    log, seen = lines
    for number in range(1_000):
        log.warning("denied", number=number, throttle=number)
        clock.now += 0.001
    log.error("not_kept", number=-1, throttle="full")
    assert [line["number"] for line in seen] == [*range(11), -1]
    clock.now += 5.0
    log.warning("denied", number=2_000, throttle=2_000)
    log.warning("denied", number=0, throttle=0)
    assert [line["number"] for line in seen[12:]] == [2_000, 0]


def test_the_records_of_a_logger_are_throttled_by_their_message(clock):
    only_grpc = ThrottledLogger("grpc", Throttle(period=5.0, clock=clock))

    def log(message, *args):
        record = logging.LogRecord("grpc.aio", logging.ERROR, "", 0, message, args, None)
        return record.suppressed if only_grpc.filter(record) else None

    assert [log("failed in %s", "A"), log("failed in %s", "B")] == [0, 0]
    assert [log("failed in %s", "A") for _ in range(1_000)] == [None] * 1_000
    clock.now += 5.0
    assert log("failed in %s", "A") == 1_000


def test_the_records_of_other_loggers_pass(clock):
    only_grpc = ThrottledLogger("grpc", Throttle(period=5.0, clock=clock))
    record = logging.LogRecord("grpcio", logging.ERROR, "", 0, "failed", (), None)
    assert [only_grpc.filter(record) for _ in range(3)] == [True] * 3

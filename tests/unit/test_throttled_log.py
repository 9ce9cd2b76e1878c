"""What repeats is logged once and then counted."""

from structlog.testing import capture_logs

from gateway.throttled_log import MAX_KINDS, PERIOD, ThrottledLog


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_first_of_a_kind_is_logged_and_the_others_are_counted() -> None:
    clock = Clock()
    log = ThrottledLog(clock=clock)
    with capture_logs() as lines:
        for _ in range(1_000):
            log.log("callback_not_kept", reason="Unavailable", sdk_app_id=7)
        clock.now += PERIOD
        log.log("callback_not_kept", reason="Unavailable", sdk_app_id=7)
    assert [(line["event"], line["suppressed"]) for line in lines] == [
        ("callback_not_kept", 0),
        ("callback_not_kept", 999),
    ]
    assert lines[0]["sdk_app_id"] == 7


def test_kinds_are_told_apart_by_event_and_reason() -> None:
    log = ThrottledLog(clock=Clock())
    with capture_logs() as lines:
        for event, reason in (("a", "x"), ("a", "y"), ("b", "x"), ("a", "x")):
            log.log(event, reason=reason)
    assert [(line["event"], line["reason"]) for line in lines] == [
        ("a", "x"),
        ("a", "y"),
        ("b", "x"),
    ]


def test_the_number_of_kinds_is_bounded() -> None:
    log = ThrottledLog(clock=Clock())
    with capture_logs() as lines:
        for number in range(3 * MAX_KINDS):
            log.log("event", reason=str(number))
    assert len(lines) == 3 * MAX_KINDS
    assert len(log._kinds) <= MAX_KINDS

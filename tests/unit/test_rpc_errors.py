"""What repeats is logged once a period, with the number that was left out."""

import weakref
from typing import Any

import pytest
from google.rpc.error_details_pb2 import BadRequest
from structlog.testing import capture_logs

from service.rpc.errors import (
    LOG_PERIOD,
    MAX_KINDS,
    MAX_VIOLATION_BYTES,
    MAX_VIOLATIONS,
    SHOWN,
    Reason,
    Refused,
    ThrottledLog,
    map_errors,
    quoted,
    status_of,
)


def test_the_first_of_a_kind_is_logged_at_once_and_the_rest_counted():
    now = 0.0
    log = ThrottledLog(clock=lambda: now)
    with capture_logs() as lines:
        for _ in range(1_000):
            log.log("error", "rpc_failed", method="GetSession", error=KeyError("x"), trace=True)
        log.log("error", "rpc_failed", method="GetSession", error=ValueError("x"), trace=True)
        log.log("error", "rpc_failed", method="GetStatus", error=KeyError("x"), trace=True)
        now = LOG_PERIOD
        log.log("error", "rpc_failed", method="GetSession", error=KeyError("x"), trace=True)
    kinds = [(line["method"], line["error"], line["suppressed"]) for line in lines]
    assert kinds == [
        ("GetSession", "KeyError", 0),
        ("GetSession", "ValueError", 0),
        ("GetStatus", "KeyError", 0),
        ("GetSession", "KeyError", 999),
    ]


def test_kinds_are_bounded():
    log = ThrottledLog(clock=lambda: 0.0)
    with capture_logs() as lines:
        for number in range(10 * MAX_KINDS):
            log.log("warning", f"event_{number}", method="M", error=KeyError())
    assert len(lines) == 10 * MAX_KINDS
    assert len(log) <= MAX_KINDS


def test_an_error_tells_the_first_faults_and_how_many_more_there_are():
    for size, told in ((1, MAX_VIOLATIONS), (MAX_VIOLATION_BYTES // 3, 2)):
        faults = tuple((f"field_{n}", "x" * size) for n in range(2_000))
        status = status_of(Refused(Reason.INVALID_REQUEST, "wrong", violations=faults))
        found = BadRequest()
        assert status.details[1].Unpack(found)
        *first, last = found.field_violations
        assert [(each.field, each.description) for each in first] == list(faults[:told])
        assert last.description == f"and {2_000 - told:,} more"
        assert status.ByteSize() < MAX_VIOLATION_BYTES + 500


class Held:
    """An answer that was made but is not to be sent."""


@pytest.mark.parametrize("error", [Refused(Reason.TOO_MANY_CALLS, "full"), ValueError()])
async def test_what_a_call_that_failed_had_made_is_let_go_of_before_its_client_has_read(error):
    made: list[weakref.ref[Held]] = []
    at_the_end: list[Held | None] = []

    class Context:
        def cancelled(self) -> bool:
            return False

        done = cancelled

        async def abort(self, *_: Any) -> None:
            at_the_end.append(made[0]())

    async def fail(_requests: Any, _context: Any) -> None:
        held = Held()
        made.append(weakref.ref(held))
        raise error

    with capture_logs():
        await map_errors("GetSession")(fail)(None, Context())
    assert at_the_end == [None]


def test_what_a_client_sent_is_shown_short_and_harmless():
    assert quoted("session\n\x1b[2J") == '"session\\n\\u001b[2J"'
    assert len(quoted("x" * 100_000)) == SHOWN + 3

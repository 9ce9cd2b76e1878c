"""Errors on the wire and in the log: bounded, harmless, and without what the call had made."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
from google.rpc.error_details_pb2 import BadRequest
from structlog.testing import capture_logs

from service.rpc.errors import (
    MAX_VIOLATION_BYTES,
    MAX_VIOLATIONS,
    SHOWN,
    CallRefused,
    ErrorReason,
    map_errors,
    quoted,
    status_of,
)
from service.view.errors import ViewError


async def test_errors_of_the_server_are_logged_with_a_kind_to_throttle_them_by():
    async def fail(error: Exception, _context: Any) -> None:
        raise error

    with capture_logs() as lines:
        for method in ("GetSession", "GetStatus"):
            answer = map_errors(method, fail)
            for error in (KeyError("x"), ValueError("x"), ViewError("x"), INVALID):
                await answer(error, Context())
    assert [(line["event"], *line["throttle"]) for line in lines] == [
        (event, method, error)
        for method in ("GetSession", "GetStatus")
        for event, error in (
            ("rpc_failed", "KeyError"),
            ("rpc_failed", "ValueError"),
            ("view_not_readable", "ViewError"),
        )
    ]


def test_an_error_tells_the_first_faults_and_how_many_more_there_are():
    for size, told in ((1, MAX_VIOLATIONS), (MAX_VIOLATION_BYTES // 3, 2)):
        faults = tuple((f"field_{n}", "x" * size) for n in range(2_000))
        status = status_of(CallRefused(ErrorReason.INVALID_REQUEST, "wrong", violations=faults))
        found = BadRequest()
        assert status.details[1].Unpack(found)
        *first, last = found.field_violations
        assert [(each.field, each.description) for each in first] == list(faults[:told])
        assert last.description == f"and {2_000 - told:,} more"
        assert status.ByteSize() < MAX_VIOLATION_BYTES + 500


class Context:
    """A call that is open; notes what is called at its end."""

    def __init__(self, at_the_end: Callable[[], None] = lambda: None) -> None:
        self._at_the_end = at_the_end

    def cancelled(self) -> bool:
        return False

    done = cancelled

    async def abort(self, *_: Any) -> None:
        self._at_the_end()


INVALID = CallRefused(ErrorReason.INVALID_REQUEST, "wrong")


class Held:
    """An answer that was made but is not to be sent."""


@pytest.mark.parametrize("error", [CallRefused(ErrorReason.TOO_MANY_CALLS, "full"), ValueError()])
async def test_what_a_call_that_failed_had_made_is_let_go_of_before_its_client_has_read(error):
    made: list[weakref.ref[Held]] = []
    at_the_end: list[Held | None] = []

    async def fail(_requests: Any, _context: Any) -> None:
        held = Held()
        made.append(weakref.ref(held))
        raise error

    with capture_logs():
        context = Context(lambda: at_the_end.append(made[0]()))
        await map_errors("GetSession", fail)(None, context)
    assert at_the_end == [None]


def test_what_a_client_sent_is_shown_short_and_harmless():
    assert quoted("session\n\x1b[2J") == '"session\\n\\u001b[2J"'
    assert len(quoted("x" * 100_000)) == SHOWN + 3

"""A connection of waitress with the gateway's parser and the gateway's answers to bad requests.

No private name of waitress is used: these classes are set where waitress takes a class.
"""

import sys
from functools import cached_property
from time import monotonic
from typing import Any

import structlog
from waitress.channel import HTTPChannel
from waitress.task import Task

from gateway.answers import BY_STATUS, CONTENT_TYPE, OUTCOMES, Answer
from gateway.eviction import client_network
from gateway.measurement import count, observe
from gateway.parser import Discarding, Parser

_log = structlog.get_logger(__name__)


class WaitressLog:
    """The logger for waitress. Its messages quote requests; ours take their place."""

    def info(self, *_: object) -> None:
        """Log nothing: a client has left."""

    def warning(self, *_: object) -> None:
        """Log the exception that is being handled, if there is one."""
        if error := sys.exc_info()[0]:
            reason = error.__name__
            _log.warning("connection_failed", reason=reason, throttle=reason)

    exception = log = warning


class RefusalTask(Task):  # type: ignore[misc]
    """An answer to a request that could not be read; the last on its connection."""

    complete = True

    def execute(self) -> None:
        error = self.request.error
        _log.warning("request_refused", reason=error.reason, throttle=error.reason)
        self.channel.discard()
        answer = BY_STATUS.get(error.code, Answer.FAILED)
        count(OUTCOMES.get(answer, ""))
        observe("", "", answer.status_code, self.request.arrived)
        self.status = f"{answer.status.value} {answer.status.phrase}"
        self.response_headers = [("Content-Type", CONTENT_TYPE), ("Connection", "close")]
        # Else waitress would add a second Connection, or close before everything is read.
        self.version, self.request.headers["CONNECTION"] = "1.1", ""
        self.content_length = len(answer.body)
        self.write(answer.body)


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection; its attributes are those of `gateway.eviction.Connection`."""

    error_task_class = RefusalTask
    parser_class: Any = Parser
    logger = WaitressLog()
    refused = 0.0
    accepted = 0.0
    quiet_since = 0.0
    seen_activity = 0.0

    @cached_property
    def address(self) -> str:
        return client_network(self.addr[0])

    @property
    def begun(self) -> float:
        return self.refused or (self.request.begun if self.request else 0.0)

    @property
    def size(self) -> int:
        body = self.request and self.request.body
        return len(body) if body is not None else 0

    @property
    def is_busy(self) -> bool:
        return bool(self.requests or self.total_outbufs_len)

    def discard(self) -> None:
        """Serve no further request; drop what still arrives."""
        self.refused = monotonic()
        self.parser_class = Discarding

    def note_activity(self, now: float) -> None:
        """Note when bytes came or went: waitress's own time may be set back."""
        self.accepted = self.accepted or now
        if self.seen_activity != self.last_activity:
            self.seen_activity = self.last_activity
            self.quiet_since = now

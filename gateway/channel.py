"""One HTTP connection on waitress: what it reads, how it answers, how it ends.

Changes waitress 3 where the gateway needs it to: no busy loop while an answer is due, one packet
per answer, the vendor's JSON also for waitress's own errors, no ambiguous framing. Of routes it
knows that of callbacks, which spares them WSGI.
"""

import re
import socket
from functools import lru_cache
from math import inf
from time import monotonic
from typing import Any

import structlog
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask, Task, WSGITask
from waitress.utilities import build_http_date

from gateway.acknowledgements import ACKNOWLEDGEMENTS, BODIES, BY_STATUS, CONTENT_TYPE, Outcome
from gateway.app import CONDITION, log_unexpected
from gateway.callbacks import Rejected
from journal.append import Append

DISCARD = 4 * 1024 * 1024
"""Bytes that are read and thrown away behind a request that was refused half-read, so that its
sender gets to read the answer."""

_log = structlog.get_logger(__name__)
_TRANSFER_ENCODING = re.compile(rb"(?im)^transfer-encoding:[ \t]*(.*?)[ \t\r]*$")


class Parser(HTTPRequestParser):  # type: ignore[misc]  # waitress has no types
    """Refuses requests whose end is ambiguous, and notes when one began and arrived.

    Attributes:
        begun: when its first byte came, `time.monotonic`.
        arrived: when its last byte came.
    """

    arrived = 0.0

    def __init__(self, adj: Any) -> None:
        super().__init__(adj)
        self.begun = monotonic()

    def received(self, data: bytes) -> int:
        """Take bytes; see waitress."""
        consumed: int = super().received(data)
        if self.completed:
            self.expect_continue = False  # else waitress reads the next head into this request
            self.arrived = monotonic()
        return consumed

    def body(self) -> bytes:
        """Return what came after the head, in full; waitress's stream would be a copy of it."""
        return bytes(self.body_rcv.getbuf().get()) if self.body_rcv else b""

    def parse_header(self, header_plus: bytes) -> None:
        """Read the request's head; see waitress.

        waitress lets some of what RFC 9112, 6.1 wants refused pass. A proxy in front may read such
        a request differently: that is how requests are smuggled.
        """
        super().parse_header(header_plus)
        if "close" in map(str.strip, self.headers.get("CONNECTION", "").lower().split(",")):
            self.headers["CONNECTION"] = "close"  # waitress looks for this alone
        if b"ransfer-" not in header_plus.lower():
            return
        codings = _TRANSFER_ENCODING.findall(header_plus)
        if codings and (
            [coding.lower() for coding in codings] != [b"chunked"]
            or "CONTENT_LENGTH" in self.headers
            or self.version != "1.1"
        ):
            raise ParsingError("ambiguous length of the body")


class _Answer(Task):  # type: ignore[misc]
    """What all answers of ours have in common, whether or not the app gave them."""

    def build_response_header(self) -> bytes:
        """Say `Connection: close` while the server drains, on the last answer."""
        channel = self.channel
        if channel.server.draining:
            with channel.requests_lock:  # while it is held, nothing that came with us is unread
                last = len(channel.requests) <= 1 and channel.request is None
            if last:
                self.set_close_on_finish()
        header: bytes = super().build_response_header()
        return header

    def finish(self) -> None:
        """Send the whole answer at once, from this thread."""
        super().finish()
        self.channel.send_answer()

    def write_outcome(self, outcome: Outcome, detail: str = "") -> None:
        """Answer with an outcome of our table."""
        answer = ACKNOWLEDGEMENTS[outcome]
        body = answer.body(detail) if detail else BODIES[outcome]
        self.complete = True
        self.status = f"{answer.status.value} {answer.status.phrase}"
        self.response_headers.append(("Content-Type", CONTENT_TYPE))
        if answer.retry_after is not None:
            self.response_headers.append(("Retry-After", str(answer.retry_after)))
        self.content_length = len(body)
        self.write(body)


class CallbackTask(_Answer):
    """A callback; or, when too many wait already, a refusal.

    Runs in two halves: `prepare` begins to keep it, `service` says what became of it.

    Attributes:
        append: what the answer waits for, if it does.
        deadline: until when, `time.monotonic`.
    """

    append: Append | None = None
    deadline = inf
    _outcome: Outcome | None = None
    _fault = ""

    def prepare(self) -> None:
        """Begin to keep it; nothing is sent."""
        try:
            self._begin()
        except Rejected as rejected:
            self._outcome = rejected.outcome
        except Exception as error:
            log_unexpected(error)
            self._outcome = Outcome.FAILED

    def _begin(self) -> None:
        server, request = self.channel.server, self.request
        if server.is_overloaded():
            raise Rejected(Outcome.OVERLOADED)
        entry, self._fault = server.callbacks.accept(
            request.query,
            request.headers.get("CONTENT_ENCODING", ""),
            request.body(),
        )
        self.deadline = server.callbacks.deadline(entry, request.arrived)
        self.append = server.callbacks.submit(entry, self._done)

    def _done(self, _append: Append) -> None:
        self.channel.server.call_soon(self.answer)

    def answer(self) -> None:
        """Wait no longer."""
        self.channel.answer(self)

    def execute(self) -> None:
        """Say what has become of it."""
        outcome = self._outcome
        if self.append:
            outcome = self.channel.server.callbacks.judge(self.append)
        if outcome or self._fault:
            self.write_outcome(outcome or Outcome.MALFORMED, "" if outcome else self._fault)
        elif self._is_ordinary():
            self.wrote_header = True
            self.channel.write_at_once(_kept(int(self.start_time)))
        else:
            self.write_outcome(Outcome.KEPT)

    def _is_ordinary(self) -> bool:
        """Whether the answer's head says nothing of the connection."""
        return (
            self.version == "1.1"
            and not self.channel.server.draining
            and self.request.headers.get("CONNECTION") != "close"
        )


@lru_cache(maxsize=1)
def _kept(now: int) -> bytes:
    """What nearly all answers are, in full, at a time: waitress makes each head anew."""
    body = BODIES[Outcome.KEPT]
    head = (
        "HTTP/1.1 200 OK",
        f"Content-Length: {len(body)}",
        f"Content-Type: {CONTENT_TYPE}",
        f"Date: {build_http_date(now)}",
    )
    return "\r\n".join((*head, "", "")).encode() + body


class AppTask(_Answer, WSGITask):  # type: ignore[misc]
    """Any other request: the app answers."""

    def get_environment(self) -> dict[str, Any]:
        """Tell the app what only the server knows."""
        environ: dict[str, Any] = super().get_environment()
        environ[CONDITION] = self.channel.server.condition()
        return environ


class RefusalTask(_Answer, ErrorTask):  # type: ignore[misc]
    """A request that waitress could not read, or an app that failed."""

    def execute(self) -> None:
        """Answer, and give up the connection: where the next request begins is not known."""
        self.channel.discards = DISCARD
        self.set_close_on_finish()
        self.write_outcome(BY_STATUS.get(self.request.error.code, Outcome.FAILED))


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection.

    Attributes:
        discards: bytes still to be thrown away before it is closed.
        lingering: the answer is sent, and what comes now is thrown away.
        lingering_since: when that began, `time.monotonic`.
    """

    error_task_class = RefusalTask
    parser_class = Parser
    discards = 0
    lingering = False
    lingering_since = inf
    _task: Task | None = None

    def task_class(self, *_: Any) -> Task | None:
        """What waitress calls for a task."""
        task, self._task = self._task, None
        return task

    def service(self) -> None:
        """Answer the next request; a callback, as soon as the answer is true."""
        request, callbacks = self.requests[0], self.server.callbacks
        if request.error:
            self._answer_with(None)  # waitress makes a RefusalTask
            return
        if not (callbacks and callbacks.serves(request.command, request.path)):
            self._answer_with(AppTask(self, request))
            return
        task = CallbackTask(self, request)
        task.prepare()
        if task.append is None:
            self._answer_with(task)
        else:
            self.server.held.add(task)

    def answer(self, task: CallbackTask) -> None:
        """Answer a callback that waits, unless it is answered. In the event loop only."""
        if task in self.server.held:
            self.server.held.remove(task)
            self._answer_with(task)
            task.append = None  # it refers to the task; without cycles all is freed at once

    def _answer_with(self, task: Task | None) -> None:
        self._task = task
        try:
            super().service()
        except Exception as error:  # the thread must live on: there is no other
            _log.error("connection_failed", error=type(error).__name__)
            self.cancel()

    def readable(self) -> bool:
        """Whether to wait for bytes."""
        return self.lingering or super().readable()

    def writable(self) -> bool:
        """Whether to wait for room to send.

        Unlike waitress's, False while a thread writes an answer that it will send itself: the event
        loop would wake at once, find nothing that it may do, and try again, as fast as it can, on
        the time of the very thread that it is waiting for.
        """
        if self.lingering:
            return bool(self.will_close)
        if self.requests and self.total_outbufs_len < self.adj.send_bytes:
            return bool(self.will_close or self.close_when_flushed)
        return bool(super().writable())

    def write_at_once(self, data: bytes) -> None:
        """Write, and send right away if nothing else waits to be sent. In the event loop only."""
        sent = 0 if self.total_outbufs_len else self.send(data, do_close=False)
        if sent < len(data):
            self.write_soon(data[sent:])

    def send_answer(self) -> None:
        """Send what has been written; what does not fit is left to the event loop."""
        if not self.total_outbufs_len:
            return
        with self.outbuf_lock:
            self._flush_exception(self._flush_some, do_close=False)

    def handle_write(self) -> None:
        """There is room to send, or the connection is to be closed."""
        if self.discards and self.close_when_flushed and not self.total_outbufs_len:
            self._linger()
        else:
            super().handle_write()

    def handle_read(self) -> None:
        """There are bytes to read."""
        if self.lingering:
            self._discard()
        else:
            super().handle_read()

    def _linger(self) -> None:
        # Closing while bytes are unread makes the kernel send a reset, and the sender may see that
        # instead of the answer (RFC 9112, 9.6).
        self.close_when_flushed = False
        self.lingering = True
        self.lingering_since = monotonic()
        self.socket.shutdown(socket.SHUT_WR)

    def _discard(self) -> None:
        self.discards -= len(self.recv(self.adj.recv_bytes))
        if self.connected and self.discards <= 0:
            self.handle_close()

"""waitress as the gateway needs it: a request that waits costs a greenlet, and all is bounded.

Owns the event loop, the connections and the listening socket. Handles no signals, knows no routes.
Why greenlets: docs/adr/0014-one-way-in-through-falcon.md. Of waitress one method is overridden,
`pull_trigger`; the parser, the task that refuses and the dispatcher are of our own.
"""

import os
import resource
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from time import monotonic
from types import SimpleNamespace
from typing import Any, cast
from weakref import finalize

import structlog
from greenlet import getcurrent, greenlet
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import Task

from gateway.acknowledgements import ACKNOWLEDGEMENTS, BODIES, BY_STATUS, CONTENT_TYPE, Outcome
from gateway.app import ARRIVED, CONDITION
from gateway.connections import Limits, network, overdue
from gateway.parser import Discarding, Parser
from gateway.throttled_log import ThrottledLog

MAX_CONNECTIONS = 1024
"""Connections at once, if the process may have that many. Further ones wait in the kernel."""

SPARE_FILES = 16
"""File descriptors left for what the process opens later, as a journal that failed."""

FEW_CONNECTIONS = 64
"""Connections below which the server says at start how few there may be."""

TICK = 0.05
"""Seconds between two looks at what has waited for too long."""

HURRY = 0.01
"""The same, while no connection can be accepted and the look before made room for some."""

SLICE = 0.02
"""Seconds for which requests are answered before the loop reads from all connections again."""

ACCEPTED_AT_ONCE = 64
"""Connections taken from the kernel before the loop answers again."""

GRACE = 0.5
"""Seconds after `stop` for requests that are half-received, and for those that cross with the
closing of an idle connection."""

DRAIN = 5.0
"""Seconds after which `run` returns, whatever is still unfinished."""

_PARTS, _WHOLE = 1, 65536
"""Bytes that waitress sends at once: while an answer is written, all of it; later, what is left."""

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_log = structlog.get_logger(__name__)


class GreenletEvent:
    """An event that a request waits on while the event loop answers others.

    Made and waited for by the app, within a request; set by any thread.
    """

    def __init__(self) -> None:
        self._request = cast(_Request, getcurrent())
        self.is_set = False

    def set(self) -> None:
        """Let the request go on, soon."""
        self.is_set = True
        self._request.loop.call_soon(self._request.go_on)

    def wait(self, timeout: float) -> bool:
        """Switch to the loop until the event is set, at most for `timeout` seconds."""
        if not self.is_set:
            self._request.wait(monotonic() + timeout)
        return self.is_set


class _Request(greenlet):
    """A request that is being answered."""

    def __init__(self, loop: "_EventLoop", channel: "_Channel") -> None:
        super().__init__()
        self.loop = loop
        self.channel = channel
        self.deadline = 0.0

    def run(self) -> None:
        """Answer it, and read the next one from what has come already."""
        request = self.channel.requests[0]
        self.channel.service()
        if request.rest and self.channel.connected:
            self.channel.received(request.rest)
            for following in self.channel.requests:
                following.arrived = request.arrived

    def wait(self, deadline: float) -> None:
        """Switch to the loop until somebody calls `go_on`, or the deadline has come."""
        self.deadline = deadline
        self.loop.waiting.add(self)
        cast(greenlet, self.parent).switch()

    def go_on(self) -> None:
        """Switch to the request if it waits."""
        if self in self.loop.waiting:
            self.loop.waiting.remove(self)
            self.loop.switch_to(self)


class _RefusalTask(Task):  # type: ignore[misc]
    """Answers a request that could not be read, and gives up the connection."""

    complete = True

    def execute(self) -> None:
        """Answer in the vendor's words."""
        error = self.request.error
        self.channel.server.log.log("request_refused", reason=error.reason)
        self.channel.discard()
        outcome = BY_STATUS.get(error.code, Outcome.FAILED)
        status, body = ACKNOWLEDGEMENTS[outcome].status, BODIES[outcome]
        self.status = f"{status.value} {status.phrase}"
        self.response_headers = [("Content-Type", CONTENT_TYPE), ("Connection", "close")]
        # Here waitress would add a second Connection, or close before all is read.
        self.version, self.request.headers["CONNECTION"] = "1.1", ""
        self.content_length = len(body)
        self.write(body)


class _WaitressLog:
    """waitress's logger. Its messages quote requests; a line of ours takes their place."""

    def __init__(self) -> None:
        self._log = ThrottledLog()

    def info(self, *_: object) -> None:
        """Log nothing: a client has left."""

    def warning(self, *_: object) -> None:
        """Log the exception that is being handled, if there is one."""
        if error := sys.exc_info()[0]:
            self._log.log("connection_failed", reason=error.__name__)

    exception = log = warning


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection; see `gateway.connections.Connection`."""

    error_task_class = _RefusalTask
    parser_class: Any = Parser
    logger = _WaitressLog()
    refused = 0.0
    accepted = 0.0
    quiet_since = 0.0
    seen_activity = 0.0

    @cached_property
    def address(self) -> str:
        return network(self.addr[0])

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
        """Serve no further request; drop what still comes."""
        self.refused = monotonic()
        self.parser_class = Discarding

    def note_activity(self, now: float) -> None:
        """Note when bytes came or went; waitress does so too, by a clock that may be set back."""
        self.accepted = self.accepted or now
        if self.seen_activity != self.last_activity:
            self.seen_activity = self.last_activity
            self.quiet_since = now

    def is_pipelining(self) -> bool:
        """Return whether another request has come, or begun, behind the one to be answered."""
        return bool(self.requests[0].rest)


class _Settings(Adjustments):  # type: ignore[misc]
    # A class attribute, because the parameter of that name is deprecated: should it go, so does
    # what it cures, a packet for each part of an answer.
    send_bytes = _PARTS


class _EventLoop(TcpWSGIServer):  # type: ignore[misc]
    """Accepts, reads and closes connections, and runs requests in greenlets.

    Attributes:
        connections: what waitress polls, by file descriptor.
        waiting: the requests that wait for an event.
        draining: no more connections are accepted.
    """

    channel_class = _Channel
    logger = _Channel.logger

    def __init__(self, app: WSGI, sock: socket.socket, limits: Limits) -> None:
        self.waiting: set[_Request] = set()
        self.draining = False
        self.limits = limits
        self.log = ThrottledLog()
        self._app = app
        self._to_answer: deque[_Channel] = deque()
        self._unsent: deque[_Channel] = deque()
        self.connections: dict[int, Any] = {}
        self._soon: deque[Callable[[], None]] = deque()
        self._awake = True
        self._looked = 0.0
        self._made_room = False
        super().__init__(
            self._call_app,
            map=self.connections,
            # waitress calls it while it holds the channel's lock: it only queues.
            dispatcher=SimpleNamespace(add_task=self._to_answer.append),
            adj=_settings(),
            _sock=sock,
            bind_socket=False,
            sockinfo=(sock.family, sock.type, sock.proto, sock.getsockname()),
        )
        # Connections inherit it. Else poll would report a byte of urgent data again and again.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        os.set_blocking(self.trigger.trigger, False)
        # A descriptor of its own, that lives as long as anybody can wake the loop: the trigger's
        # could be closed, and be another file's by then.
        self._wake = os.dup(self.trigger.trigger)
        finalize(self, os.close, self._wake)

    def pull_trigger(self) -> None:
        """Do nothing: waitress wakes the loop so, and only the loop itself runs waitress."""

    def call_soon(self, call: Callable[[], None]) -> None:
        """Make the loop call something. For any thread."""
        self._soon.append(call)
        if not self._awake:
            self._awake = True
            self.wake()

    def wake(self) -> None:
        """Wake the loop. For any thread, and for a signal handler."""
        with suppress(BlockingIOError, BrokenPipeError):  # it will wake, or has ended
            os.write(self._wake, b"x")

    def turn(self, timeout: float) -> None:
        """Handle what is ready, or wait for it: of each connection one request at most."""
        connections = len(self.active_channels)
        is_full = self.limits.is_full(connections)
        pause = HURRY if is_full and self._made_room else TICK
        self.accepting = not self.draining and not is_full
        self._take_up_unsent()
        self._awake = False  # from now on; who changes something later must wake it
        if self._soon or self._to_answer:
            timeout = 0.0
        elif self.waiting or not self.accepting:
            timeout = min(timeout, pause)
        wasyncore.loop(timeout, use_poll=True, map=self.connections, count=1)
        self._awake = True
        if len(self.active_channels) > connections:
            self._accept_more(ACCEPTED_AT_ONCE)
        self._answer()
        if monotonic() >= self._looked + pause:
            self._look()

    def switch_to(self, request: _Request) -> None:
        """Run a request until it waits or is answered, and send what it has written."""
        channel = request.channel
        if self._has_to_end(channel):
            channel.requests[0].headers["CONNECTION"] = "close"  # waitress then closes, and says so
        self.adj.send_bytes = _WHOLE
        try:
            request.switch()
        except Exception:  # a bug; it must not end the requests of others
            self.logger.exception()
            channel.handle_close()
        self.adj.send_bytes = _PARTS
        if channel.connected and channel.writable():
            wasyncore.write(channel)
        if channel.refused and channel.connected and not channel.total_outbufs_len:
            with suppress(OSError):
                channel.socket.shutdown(socket.SHUT_WR)

    def stop_accepting(self) -> None:
        """Take the connections that the kernel has already made, and refuse further ones."""
        self._accept_more(self.limits.connections)
        self.draining = True
        wasyncore.dispatcher.close(self)

    def close_idle(self) -> None:
        """Close connections that have no request which arrived in full, and nothing to send."""
        for channel in list(self.active_channels.values()):
            if not channel.is_busy:
                channel.handle_close()

    def _call_app(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Tell the app what only the server knows."""
        request = cast(_Request, getcurrent())
        environ[ARRIVED] = request.channel.requests[0].arrived
        environ[CONDITION] = "stopping" if self.draining else ""
        return self._app(environ, start_response)

    def _answer(self) -> None:
        for _ in range(len(self._soon)):
            self._soon.popleft()()
        until = monotonic() + SLICE
        for _ in range(len(self._to_answer)):
            channel = self._to_answer.popleft()
            if channel.total_outbufs_len:
                self._unsent.append(channel)
            elif channel.requests:  # else it was given up meanwhile
                self.switch_to(_Request(self, channel))
                if monotonic() > until:
                    return

    def _take_up_unsent(self) -> None:
        """Go on with connections whose client has read the answer before."""
        for _ in range(len(self._unsent)):
            channel = self._unsent.popleft()
            (self._unsent if channel.total_outbufs_len else self._to_answer).append(channel)

    def _has_to_end(self, channel: _Channel) -> bool:
        """Return whether the next answer is the last on its connection."""
        if self.draining:
            return not channel.is_pipelining()
        return channel.is_pipelining() and self.limits.is_crowded(len(self.active_channels))

    def _accept_more(self, number: int) -> None:
        """Accept what else the kernel has; with one each turn, a burst would wait long."""
        before, most = -1, min(len(self.active_channels) + number, self.limits.connections)
        while before < len(self.active_channels) < most:
            before = len(self.active_channels)
            self.handle_accept()

    def _look(self) -> None:
        """Give up what has waited, or been waited for, too long, and what takes others' room."""
        self._looked = now = monotonic()
        for request in self.waiting.copy():
            if request.deadline <= now:
                request.go_on()
        channels = list(self.active_channels.values())
        for channel in channels:
            channel.note_activity(now)
        for channel in overdue(channels, now):
            channel.handle_close()
        surplus = self.limits.surplus(list(self.active_channels.values()), now)
        self._made_room = bool(surplus)
        if surplus:
            self.log.log("too_many_connections", closed=len(surplus))
            for channel in surplus:
                channel.handle_close()


class Server:
    """Serves the gateway until `stop`, and then finishes what it has begun.

    Args:
        app: the gateway, which waits on `GreenletEvent` and for nothing else.
        sock: a bound TCP socket. The server closes it.
        per_address: connections from one address; None: half of all, 0: as many as in all.
    """

    def __init__(self, app: WSGI, sock: socket.socket, *, per_address: int | None = None) -> None:
        self._stopping = False
        connections = affordable_connections()
        if per_address is None:
            per_address = max(1, connections // 2)
        limits = Limits(connections=connections, per_address=per_address)
        self._loop = _EventLoop(app, sock, limits)
        if connections < FEW_CONNECTIONS:
            _log.warning("few_connections", connections=connections, per_address=per_address)

    def run(self) -> None:
        """Serve until `stop`, then drain: at most `DRAIN` seconds."""
        while not self._stopping:
            self._loop.turn(1.0)
            if self._loop.socket is None:  # waitress closes what raised an error
                raise OSError("the listening socket failed")
        self._drain()

    def stop(self) -> None:
        """Make `run` drain and return. Safe in any thread and in a signal handler."""
        self._stopping = True
        self._loop.wake()

    def close(self) -> None:
        """Close all connections and the socket. For a server that does not run."""
        wasyncore.close_all(self._loop.connections)

    def _drain(self) -> None:
        begun = monotonic()
        loop = self._loop
        loop.stop_accepting()
        while loop.active_channels and monotonic() < begun + DRAIN:
            loop.turn(TICK)
            if monotonic() > begun + GRACE:
                loop.close_idle()
        if unfinished := len(loop.active_channels):
            _log.warning("drain_unfinished", connections=unfinished)
        self.close()


def _settings() -> Adjustments:
    return _Settings(
        backlog=MAX_CONNECTIONS,
        connection_limit=2**31,  # ours are in `gateway.connections`, as are the timeouts
        channel_timeout=2**31,
        channel_request_lookahead=0,
        asyncore_use_poll=True,
        log_socket_errors=False,  # peers that leave are no news
        clear_untrusted_proxy_headers=False,  # the app reads none of them, and clearing takes time
        ident=None,
    )


def affordable_connections() -> int:
    """Return how many connections the process has file descriptors for."""
    # Were they to run out first, accepting would fail again and again without a pause.
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = len(os.listdir("/proc/self/fd"))
    return max(1, min(MAX_CONNECTIONS, soft - taken - SPARE_FILES))

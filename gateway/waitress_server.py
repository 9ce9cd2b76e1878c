"""waitress as the gateway needs it: a waiting request costs a greenlet, and everything is bounded.

Owns the event loop, the connections and the listening socket. Handles no signals, knows no routes.
Why greenlets: docs/adr/0014-one-way-in-through-falcon.md. Of waitress one method is overridden,
`pull_trigger`.
"""

import os
import resource
import socket
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from types import SimpleNamespace
from typing import Any, cast
from weakref import finalize

import structlog
from greenlet import getcurrent, greenlet
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer

from gateway.app import CONDITION
from gateway.eviction import overdue, reserve_used, surplus
from gateway.limits import Limits
from gateway.measurement import ARRIVED
from gateway.waitress_channel import Channel

SPARE_FILES = 16
"""File descriptors kept free for files that are opened later, such as a journal after a failure."""

BACKLOG = 1024
"""Connections that wait in the kernel until the server accepts them."""

FEW_CONNECTIONS = 64
"""Connections below which the server logs a warning at start."""

HURRY = 0.01
"""`Limits.tick` while no connection can be accepted and the check before closed some."""

ACCEPTED_AT_ONCE = 64
"""Connections accepted before the loop answers again."""

_PARTS, _WHOLE = 1, 65536
"""Bytes from which waitress sends: a part is sent at once, except while an answer is written."""

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_log = structlog.get_logger(__name__)


class GreenletEvent:
    """An event on which a request waits while the event loop answers others.

    The app makes it and waits for it, within a request. Any thread may set it.
    """

    def __init__(self) -> None:
        self._request = cast(_Request, getcurrent())
        self._is_set = False

    def set(self) -> None:
        self._is_set = True
        self._request.loop.call_soon(self._request.go_on)

    def wait(self, timeout: float) -> bool:
        """Switch to the loop until the event is set, for at most `timeout` seconds."""
        deadline = monotonic() + timeout
        while not self._is_set and monotonic() < deadline:  # another event may wake the request
            self._request.wait(deadline)
        return self._is_set


class _Request(greenlet):
    """A request that is being answered."""

    def __init__(self, loop: "EventLoop", channel: Channel) -> None:
        super().__init__()
        self.loop = loop
        self.channel = channel
        self.deadline = 0.0

    def run(self) -> None:
        """Answer the request, and parse the next one from the bytes at hand."""
        request = self.channel.requests[0]
        self.channel.service()
        if request.rest and self.channel.connected:
            self.channel.received(request.rest)
            for following in self.channel.requests:
                following.arrived = request.arrived

    def wait(self, deadline: float) -> None:
        """Switch to the loop until `go_on` is called, at the deadline by the loop itself."""
        self.deadline = deadline
        self.loop.waiting.add(self)
        cast(greenlet, self.parent).switch()

    def go_on(self) -> None:
        """Switch to the request if it waits."""
        if self in self.loop.waiting:
            self.loop.waiting.remove(self)
            self.loop.switch_to(self)


class EventLoop(TcpWSGIServer):  # type: ignore[misc]
    """The loop that accepts, reads and closes connections, and runs requests in greenlets.

    Args:
        app: the gateway.
        sock: a bound TCP socket.
        limits: `connections` is taken as it is.

    Attributes:
        polled: what waitress polls, by file descriptor.
        waiting: the requests that wait for an event.
        draining: no more connections are accepted.
    """

    channel_class = Channel
    logger = Channel.logger

    def __init__(self, app: WSGI, sock: socket.socket, limits: Limits) -> None:
        self.polled: dict[int, Any] = {}
        self.waiting: set[_Request] = set()
        self.draining = False
        self._app = app
        self._limits = limits
        self._to_answer: deque[Channel] = deque()
        self._scheduled: deque[Callable[[], None]] = deque()
        self._is_awake = True
        self._checked = 0.0
        self._made_room = False
        super().__init__(
            self._call_app,
            map=self.polled,
            # waitress calls it while it holds the channel's lock: it only queues.
            dispatcher=SimpleNamespace(add_task=self._to_answer.append),
            adj=_adjustments(),
            _sock=sock,
            bind_socket=False,
            sockinfo=(sock.family, sock.type, sock.proto, sock.getsockname()),
        )
        # Connections inherit it. Else poll would report a byte of urgent data again and again.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        os.set_blocking(self.trigger.trigger, False)
        # A descriptor of its own, open as long as any thread can wake the loop: waitress closes the
        # trigger's, and its number may then be another file's.
        self._wake_fd = os.dup(self.trigger.trigger)
        finalize(self, os.close, self._wake_fd)

    def pull_trigger(self) -> None:
        """Do nothing: waitress calls it to wake the loop, and is called by the loop only."""

    def call_soon(self, call: Callable[[], None]) -> None:
        """Make the loop call a function. Safe in any thread."""
        self._scheduled.append(call)
        if not self._is_awake:
            self._is_awake = True
            self.wake()

    def wake(self) -> None:
        """Wake the loop. Safe in any thread and in a signal handler."""
        with suppress(BlockingIOError, BrokenPipeError):  # it will wake anyway, or has ended
            os.write(self._wake_fd, b"x")

    def turn(self, timeout: float) -> None:
        """Handle ready sockets, or wait for one. Answer at most one request of each connection."""
        connections = len(self.active_channels)
        is_full = connections >= self._limits.connections
        pause = HURRY if is_full and self._made_room else self._limits.tick
        self.accepting = not (self.draining or is_full)
        self._is_awake = False  # from here on a change must wake the loop
        if self._scheduled or any(not each.total_outbufs_len for each in self._to_answer):
            timeout = 0.0
        elif self.waiting or not self.accepting:
            timeout = min(timeout, pause)
        wasyncore.loop(timeout, use_poll=True, map=self.polled, count=1)
        self._is_awake = True
        if len(self.active_channels) > connections:
            self._accept_more(ACCEPTED_AT_ONCE)
        self._answer()
        if monotonic() >= self._checked + pause:
            self._check_limits()

    def switch_to(self, request: _Request) -> None:
        """Run a request until it waits or is answered, and send its output."""
        channel = request.channel
        if self._is_last_answer(channel):
            channel.requests[0].headers["CONNECTION"] = "close"  # waitress closes and announces it
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
        self._accept_more(self._limits.connections)
        self.draining = True
        wasyncore.dispatcher.close(self)

    def close_idle(self) -> None:
        """Close connections without a complete request and with nothing to send."""
        for channel in list(self.active_channels.values()):
            if not channel.is_busy:
                channel.handle_close()

    def _call_app(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Call the app with the request's arrival and the server's condition in the environ."""
        request = cast(_Request, getcurrent())
        environ[ARRIVED] = request.channel.requests[0].arrived
        environ[CONDITION] = "stopping" if self.draining else ""
        return self._app(environ, start_response)

    def _answer(self) -> None:
        for _ in range(len(self._scheduled)):
            self._scheduled.popleft()()
        until = monotonic() + self._limits.answering
        for _ in range(len(self._to_answer)):
            channel = self._to_answer.popleft()
            if channel.total_outbufs_len:  # its client has to read the answer before
                self._to_answer.append(channel)
            elif channel.requests:  # else the connection was closed meanwhile
                self.switch_to(_Request(self, channel))
                if monotonic() > until:
                    return

    def _is_last_answer(self, channel: Channel) -> bool:
        is_pipelining = bool(channel.requests[0].rest)
        if self.draining:
            return not is_pipelining
        return is_pipelining and reserve_used(len(self.active_channels), self._limits) > 0

    def _accept_more(self, number: int) -> None:
        """Accept further connections in this turn: with one a turn, a burst would have to wait."""
        before, most = -1, min(len(self.active_channels) + number, self._limits.connections)
        while before < len(self.active_channels) < most:
            before = len(self.active_channels)
            self.handle_accept()

    def _check_limits(self) -> None:
        """End the waits that are over, and close the connections that the limits forbid."""
        self._checked = now = monotonic()
        for request in self.waiting.copy():
            if request.deadline <= now:
                request.go_on()
        channels = list(self.active_channels.values())
        for channel in channels:
            channel.note_activity(now)
        for channel in overdue(channels, self._limits, now):
            channel.handle_close()
        closed = surplus(list(self.active_channels.values()), self._limits, now)
        self._made_room = bool(closed)
        if closed:
            _log.warning("too_many_connections", closed=len(closed), throttle=True)
            for channel in closed:
                channel.handle_close()


class Server:
    """A server of the gateway that runs until `stop`, and then finishes the requests under way.

    Args:
        app: the gateway, which waits on `GreenletEvent` and for nothing else.
        sock: a bound TCP socket. The server closes it.
        limits: fewer connections are taken if the process lacks file descriptors.
    """

    def __init__(self, app: WSGI, sock: socket.socket, limits: Limits | None = None) -> None:
        self._limits = _affordable(limits or Limits())
        self._loop = EventLoop(app, sock, self._limits)
        self._is_stopping = False

    @property
    def connections(self) -> int:
        """The number of connections that are open."""
        return len(self._loop.active_channels)

    def run(self, alive: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop`, then drain for at most `Limits.drain` seconds.

        Args:
            alive: called at each turn of the event loop; at least every `Limits.turn` seconds.
        """
        while not self._is_stopping:
            alive()
            self._loop.turn(self._limits.turn)
            if self._loop.socket is None:  # waitress closes a socket that raised an error
                raise OSError("the listening socket failed")
        self._drain()

    def stop(self) -> None:
        """Make `run` drain and return. Safe in any thread and in a signal handler."""
        self._is_stopping = True
        self._loop.wake()

    def _drain(self) -> None:
        begun = monotonic()
        loop = self._loop
        loop.stop_accepting()
        while loop.active_channels and monotonic() < begun + self._limits.drain:
            loop.turn(self._limits.tick)
            if monotonic() > begun + self._limits.grace:
                loop.close_idle()
        if unfinished := len(loop.active_channels):
            _log.warning("drain_unfinished", connections=unfinished)
        wasyncore.close_all(loop.polled)


def _adjustments() -> Adjustments:
    return Adjustments(
        backlog=BACKLOG,
        connection_limit=2**31,  # the gateway has limits of its own, as for the timeout
        channel_timeout=2**31,
        channel_request_lookahead=0,
        asyncore_use_poll=True,
        log_socket_errors=False,  # clients leave all the time
        clear_untrusted_proxy_headers=False,  # the app reads none of them, and clearing takes time
        ident=None,
    )


def _affordable(limits: Limits) -> Limits:
    """Return limits with no more connections than there are file descriptors for.

    Without a descriptor, accepting would fail again and again without a pause.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = soft - len(os.listdir("/proc/self/fd")) - SPARE_FILES
    limits = replace(limits, connections=max(1, min(limits.connections, free)))
    if limits.connections < FEW_CONNECTIONS:
        per_address = limits.of_one_address
        _log.warning("few_connections", connections=limits.connections, per_address=per_address)
    return limits

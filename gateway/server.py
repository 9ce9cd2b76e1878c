"""waitress as the gateway needs it: bounded, fair to probes, and drained when it stops.

Owns the event loop, the threads and the listening socket. Handles no signals and knows no routes.
Why callbacks have no threads: docs/adr/0008-no-thread-waits-for-the-disk.md.
"""

import os
import resource
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from weakref import finalize

import structlog
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer

from gateway.app import App
from gateway.callbacks import MAX_BODY
from gateway.channel import CallbackTask, Channel

THREADS = 2
"""Threads for what is no callback, as a probe is: one may hang while it asks the journal."""

MAX_CONNECTIONS = 1024
"""Connections at once, if the process may have that many. Further ones wait in the kernel."""

OTHER_FILES = 64
"""File descriptors that are not connections."""

MAX_WAITING = 512
"""Callbacks that may wait for the disk. Further ones are refused at once."""

TICK = 0.05
"""Seconds between two looks whether a callback has waited for too long."""

MAX_HEADERS = 16 * 1024
"""Bytes of a request's head."""

FRAMING = 64 * 1024
"""Bytes that a chunked body may be larger than its content. The app knows the exact limit."""

IDLE = 75
"""Seconds after which a connection without a request is closed."""

SPARED = 1
"""Seconds for which an idle connection is spared when room is needed for others."""

RECEIVE = 10
"""Seconds that a request may take to arrive, from its first byte to its last."""

GRACE = 0.5
"""Seconds for requests that are half-received when the server is told to stop, and for those that
cross with the closing of an idle connection."""

DRAIN = 5.0
"""Seconds after which `run` returns, whatever is still unfinished."""

_log = structlog.get_logger(__name__)


class _Settings(Adjustments):  # type: ignore[misc]  # waitress has no types
    # With less, each part of an answer is a packet of its own. A class attribute, because the
    # parameter of that name is deprecated: should it go, so does what it cures.
    send_bytes = 65536


class Threads:
    """Daemon threads that answer requests: waitress's dispatcher, without its lines in the log."""

    def __init__(self, count: int) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [
            Thread(target=self._work, name=f"gateway-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def add_task(self, task: Channel) -> None:
        """Let a thread answer the connection's next request."""
        self.call(task.service)

    def call(self, call: Callable[[], None]) -> None:
        """Let a thread call something that does not raise."""
        self._queue.put(call)

    def shutdown(self, timeout: float) -> None:
        """Wait, at most `timeout` seconds, until all is answered."""
        for _ in self._threads:
            self._queue.put(None)
        deadline = monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - monotonic()))

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            call()


class _EventLoop(TcpWSGIServer):  # type: ignore[misc]
    """Accepts, reads and closes connections; serves callbacks, and hands the rest to threads.

    Attributes:
        callbacks: what answers a callback; None: the app.
        held: the callbacks that wait for the disk.
    """

    channel_class = Channel
    draining = False

    def __init__(self, app: App, sock: socket.socket, settings: Adjustments) -> None:
        self.callbacks = app.callbacks
        self.held: set[CallbackTask] = set()
        self._soon: deque[Callable[[], None]] = deque()
        self._awake = True
        self._looked = 0.0
        super().__init__(
            app,
            map={},
            dispatcher=Threads(settings.threads),
            adj=settings,
            _sock=sock,
            bind_socket=False,
            sockinfo=(sock.family, sock.type, sock.proto, sock.getsockname()),
        )
        os.set_blocking(self.trigger.trigger, False)
        # A descriptor of its own, that lives as long as anybody can wake the loop: the trigger's
        # could be closed, and be another file's by then.
        self._wake = os.dup(self.trigger.trigger)
        finalize(self, os.close, self._wake)

    def add_task(self, task: Channel) -> None:
        """See to a connection's next request soon. Called with its lock held, by any thread."""
        request = task.requests[0]
        if request.error or request.command == "POST":
            self._soon.append(task.service)
        else:
            self.task_dispatcher.add_task(task)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Make the loop call something; for any thread."""
        self._soon.append(call)
        self.pull_trigger()

    def is_overloaded(self) -> bool:
        """Whether as many callbacks wait as may."""
        return len(self.held) >= MAX_WAITING

    def condition(self) -> str:
        """Why there should be no more traffic; "" if there may."""
        if self.draining:
            return "stopping"
        return "overloaded" if self.is_overloaded() else ""

    def pull_trigger(self) -> None:
        """Wake the loop, unless it is awake or about to be."""
        if not self._awake:
            self._awake = True
            self.wake()

    def wake(self) -> None:
        """Wake the loop."""
        with suppress(BlockingIOError, BrokenPipeError):  # it will wake, or has ended
            os.write(self._wake, b"x")

    def maintenance(self, now: float) -> None:
        """Close what has been idle, or has been sending one request, for too long."""
        super().maintenance(now)
        oldest = monotonic() - RECEIVE
        for channel in self.active_channels.values():
            request = channel.request
            if channel.lingering_since < oldest or (request and request.begun < oldest):
                channel.will_close = True

    def readable(self) -> bool:
        """Whether to accept a connection. When there are as many as may be, the idlest one goes."""
        if not self.draining and len(self._map) >= self.adj.connection_limit:
            self._make_room()
        return bool(super().readable())

    def handle_accept(self) -> None:
        """Take the connections that the kernel has made; one each turn, a burst would wait long."""
        before = -1
        while before < len(self._map) < self.adj.connection_limit:
            before = len(self._map)
            super().handle_accept()

    def _make_room(self) -> None:
        idle = [
            channel
            for channel in self.active_channels.values()
            if not (channel.requests or channel.request or channel.total_outbufs_len)
        ]
        idlest = min(idle, key=lambda channel: channel.last_activity, default=None)
        if idlest and idlest.last_activity < time.time() - SPARED:
            idlest.handle_close()

    def turn(self, timeout: float) -> None:
        """Handle what is ready, or wait for it."""
        self._awake = False  # from now on; who changes something later must wake it
        if self._soon:
            timeout = 0.0
        elif self.held:
            timeout = min(timeout, TICK)
        wasyncore.loop(timeout, use_poll=True, map=self._map, count=1)
        self._awake = True
        for _ in range(len(self._soon)):
            self._soon.popleft()()
        self._give_up_overdue()

    def _give_up_overdue(self) -> None:
        now = monotonic()
        if now >= self._looked + TICK:
            self._looked = now
            for task in self.held.copy():
                if task.deadline <= now:
                    task.answer()

    def stop_accepting(self) -> None:
        """Take the connections that the kernel has already made, and refuse further ones."""
        self.handle_accept()
        wasyncore.dispatcher.close(self)

    def close_idle(self) -> None:
        """Close connections that have no request which arrived in full, and nothing to send."""
        for channel in list(self.active_channels.values()):
            if not channel.requests and not channel.total_outbufs_len:
                channel.handle_close()

    def shut_down(self, timeout: float) -> None:
        """End the threads, then close everything."""
        self.task_dispatcher.shutdown(timeout=timeout)
        wasyncore.close_all(self._map)


class Server:
    """Serves the gateway until it is told to stop, and then finishes what it has begun.

    Args:
        app: the gateway; its environ has `gateway.app.CONDITION`. It must not block in a POST that
            is no callback, and answers briefly: the event loop itself runs it.
        sock: a bound TCP socket. The server closes it.
    """

    def __init__(self, app: App, sock: socket.socket) -> None:
        self._stopping = False
        self._loop = _EventLoop(app, sock, _settings())

    def run(self) -> None:
        """Serve until `stop`, then drain: at most `DRAIN` seconds."""
        while not self._stopping:
            self._loop.turn(1.0)
        self._drain()

    def stop(self) -> None:
        """Make `run` drain and return. Safe in any thread and in a signal handler."""
        self._stopping = True
        self._loop.wake()

    def _drain(self) -> None:
        begun = monotonic()
        loop = self._loop
        loop.draining = True
        loop.stop_accepting()
        while loop.active_channels and monotonic() < begun + DRAIN:
            loop.turn(0.05)
            if monotonic() > begun + GRACE:
                loop.close_idle()
        if unfinished := len(loop.active_channels):
            _log.warning("drain_unfinished", connections=unfinished)
        loop.shut_down(max(0.1, begun + DRAIN - monotonic()))


def _settings() -> Adjustments:
    return _Settings(
        threads=THREADS,
        backlog=MAX_CONNECTIONS,
        connection_limit=affordable_connections(),
        max_request_header_size=MAX_HEADERS,
        max_request_body_size=MAX_BODY + FRAMING,
        inbuf_overflow=2 * MAX_BODY,  # above the limit: a body is never written to a file
        channel_timeout=IDLE,
        cleanup_interval=1,
        channel_request_lookahead=0,
        asyncore_use_poll=True,
        log_socket_errors=False,  # peers that leave are no news
        clear_untrusted_proxy_headers=False,  # the app reads none of them, and clearing takes time
        ident=None,
    )


def affordable_connections() -> int:
    """How many connections there may be at once."""
    # Were descriptors to run out first, accepting would fail again and again without a pause.
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(MAX_CONNECTIONS, soft - OTHER_FILES))

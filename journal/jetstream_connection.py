"""A connection to NATS, kept by an asyncio thread of its own and made again for ever.

Knows nothing of journals. Blocking callers hand it coroutines.
"""

import asyncio
import logging
import math
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError as FutureCancelled
from contextlib import suppress
from itertools import cycle
from random import sample
from time import monotonic
from typing import Any, NamedTuple, Self, TypeVar

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from journal.errors import Closed, JournalError, OtherJournal, Unavailable
from journal.jetstream_access import Access
from journal.jetstream_wire import Wire

RETRY = 0.2
"""Seconds between two attempts to connect to a server, or to use it."""

CONNECT_WITHIN = 2.0
"""Seconds that the first connection may take, and each attempt."""

CHECK_WITHIN = 1.0
"""Seconds that the check of a connection may take."""

CHECK_EVERY = 1.0
"""Seconds between two checks of a connection that is used."""

LEAVE_AFTER = 3.0
"""Seconds of failed checks after which another server is tried."""

CLOSE_WITHIN = 1.0
"""Seconds that the end of a connection may take: a server that is frozen takes no bytes."""

CANCELLATIONS = 5
"""Times that a task is cancelled at the end, `RETRY` seconds apart."""

PATIENCE = 1.5
"""Seconds without a usable connection after which callers no longer wait for one."""

PING_EVERY = 1
"""Seconds between two pings. A server that leaves two unanswered is gone."""

MAX_REASON = 200
"""Characters of an error of NATS that are shown."""

OPTIONS: dict[str, Any] = {
    "name": "desk",
    "allow_reconnect": False,
    "connect_timeout": CONNECT_WITHIN,
    "ping_interval": PING_EVERY,
    "pending_size": 0,  # nothing is kept for a server that is not there
}
"""Options of nats-py, which connects to one server, once: its own way to connect again hangs at a
server that is frozen, and ends at an error that it does not expect."""

SLACK = 5.0
"""Seconds more than it should take, after which a caller no longer waits for the thread."""

T = TypeVar("T")

log = structlog.get_logger()


class Link(NamedTuple):
    """A client of NATS and its JetStream."""

    client: Client
    js: JetStreamContext

    @classmethod
    def new(cls) -> Self:
        client = Client()
        return cls(client, client.jetstream())


class Connection:
    """A connection that is usable while `check` accepts it, which is asked every second.

    Attributes:
        server: the one that was used last.
    """

    def __init__(self, access: Access, check: Callable[[Link], Awaitable[None]]) -> None:
        """Connect.

        Args:
            access: to which servers, and as whom.
            check: raises an error if the connection must not be used. Runs in the thread.

        Raises:
            Unavailable: that is not possible now.
            Unreadable: `check` refuses.
        """
        self.server = ""
        self._access = access
        self._check = check
        self._loop = asyncio.new_event_loop()
        self._link = Link.new()
        self._usable = asyncio.Event()
        self._gone = asyncio.Event()  # the server in use
        self._main: asyncio.Task[None] | None = None
        self._closed = False
        self._refusal: JournalError | None = None
        self._reason = "no server has answered yet"
        self._down_since: float | None = monotonic()
        self._failed: set[str] = set()  # servers
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nats", daemon=True)
        self._thread.start()
        self._settled.wait(CONNECT_WITHIN)
        if trouble := self.trouble():
            self.close()
            raise self._refusal or Unavailable(trouble)

    def run(self, work: Callable[[], Coroutine[Any, Any, T]], *, timeout: float) -> T:
        """Run `work` in the thread, and wait for its result.

        Raises:
            Closed: the connection is closed.
            Unavailable: there is no connection, or no answer in time.
        """
        self.check_open()
        within = self._within(work, timeout)
        try:
            future = asyncio.run_coroutine_threadsafe(within, self._loop)
        except RuntimeError:
            within.close()
            raise Closed("the journal is closed") from None
        try:
            return future.result(timeout + SLACK)
        except FutureCancelled:
            raise Closed("the journal is closed") from None
        except TimeoutError:  # the thread has no time, or has just ended
            self.check_open()
            raise Unavailable("NATS did not answer in time") from None

    def check_open(self) -> None:
        """Raise `Closed` if the connection is closed."""
        if self._closed:
            raise Closed("the journal is closed")

    async def link(self) -> Link:
        """Return the client when it is usable. For what runs in the thread.

        Raises:
            Unavailable: it has not been usable for `PATIENCE` seconds.
        """
        if self._down_since is not None:
            try:
                async with asyncio.timeout(self._down_since + PATIENCE - monotonic()):
                    await self._usable.wait()
            except TimeoutError:
                kind = OtherJournal if isinstance(self._refusal, OtherJournal) else Unavailable
                raise kind(self.trouble()) from None
        return self._link

    def wait_until_usable(self, within: float = PATIENCE + SLACK) -> None:
        """Wait for a client, as `link` does, at most so many seconds.

        Raises:
            Closed, Unavailable: as `run`.
        """
        if self._down_since is not None:
            self.run(self.link, timeout=within)
        self.check_open()

    def leave(self, server: str) -> None:
        """Go on with the next server, if this one is in use: it takes no more connections."""
        with suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._leave, server)

    def trouble(self) -> str:
        """Return the reason for which the connection cannot be used, or "". Never waits."""
        if self._closed:
            return "the journal is closed"
        if self._down_since is None:
            return ""
        return f"NATS at {', '.join(self._access.servers)}: {self._reason}"

    def close(self) -> None:
        """Close the connection, and end what runs. May be called twice."""
        self._closed = True
        with suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(lambda: self._main and self._main.cancel())
        self._thread.join()

    async def _within(self, work: Callable[[], Coroutine[Any, Any, T]], seconds: float) -> T:
        try:
            async with asyncio.timeout(seconds):
                return await work()
        except TimeoutError:
            raise Unavailable(self.trouble() or "NATS did not answer in time") from None
        except (NatsError, OSError) as error:
            self.check_open()
            raise Unavailable(_line(error)) from error

    # ---- In the thread ----

    def _run(self) -> None:
        logging.getLogger("asyncio").addFilter(_is_no_eof_warning)
        while not self._closed:
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._keep_connected())
        self._loop.run_until_complete(_end_other_tasks())
        self._loop.close()

    async def _keep_connected(self) -> None:
        """Connect to one server after the other, whenever one is lost."""
        self._main = asyncio.current_task()
        servers = self._access.servers
        for server in cycle(sample(servers, len(servers))):
            if self._closed:  # nats-py may swallow the cancellation
                return
            self._link = Link.new()
            try:
                await self._use(server)
            except Exception as error:  # whatever it is, the thread must go on
                self._lose()
                self._note(server, error)
            finally:
                self._lose()
                with suppress(Exception):
                    async with asyncio.timeout(CLOSE_WITHIN):
                        await self._link.client.close()
            await asyncio.sleep(RETRY)

    async def _use(self, server: str) -> None:
        """Connect to a server, and check it until it is lost or left, or fails the check for long.

        Raises:
            Exception: that of the check; at once if it has never passed.
        """
        gone = self._gone = asyncio.Event()
        await self._connect(server, gone)
        passed_at = -math.inf
        while not gone.is_set() and self._link.client.is_connected and not self._closed:
            try:
                async with asyncio.timeout(CHECK_WITHIN):
                    await self._check(self._link)
                passed_at = monotonic()
                self._accept(server)
            except Exception as error:  # of any kind: it comes from nats-py as well
                if monotonic() - passed_at > LEAVE_AFTER:
                    raise
                if isinstance(error, JournalError):  # it is not slow, but wrong
                    self._lose()
                    self._note(server, error)
            with suppress(TimeoutError):
                await asyncio.wait_for(gone.wait(), CHECK_EVERY)

    async def _connect(self, server: str, gone: asyncio.Event) -> None:
        """Connect to a server; set `gone` when the connection is lost, or soon will be."""
        client, tls = self._link.client, self._access.tls()
        is_connecting, is_connected = True, False

        async def on_error(error: Exception) -> None:
            if is_connecting:
                raise error  # nats-py would try again
            if is_connected:
                self._note(server, error)

        async def on_loss() -> None:
            self._lose()
            gone.set()

        options = self._access.options(server, tls)
        with suppress(ConnectionResetError, BrokenPipeError):
            await client.connect(
                **options,
                **OPTIONS,
                error_cb=on_error,
                disconnected_cb=on_loss,
                lame_duck_mode_cb=on_loss,
            )
        is_connecting = False  # nats-py may have left a task that reads, and nobody awaits it
        if not client.is_connected:  # nats-py has lost what the server said before it closed
            await asyncio.to_thread(lambda: Wire(self._access, server).close())
            raise ConnectionResetError("the connection was closed")
        is_connected = True
        self._access.check_tls(used=tls.used)

    def _leave(self, server: str) -> None:
        if server == self.server and self._down_since is None:
            self._gone.set()

    def _accept(self, server: str) -> None:
        if self._down_since is not None:
            log.info("nats_connected", server=server, throttle=server)
        self.server = server
        self._refusal = None
        self._down_since = None
        self._usable.set()
        self._settled.set()

    def _lose(self) -> None:
        self._usable.clear()
        if self._down_since is None and not self._closed:
            self._down_since = monotonic()
            self._reason = "the connection is lost"
            log.warning("nats_disconnected", throttle="")

    def _note(self, server: str, error: Exception) -> None:
        reason = _line(error)
        if reason != self._reason and self._settled.is_set() and not self._closed:
            log.warning("nats_trouble", server=server, reason=reason, throttle=server)
        self._reason = reason
        self._refusal = error if isinstance(error, JournalError) else None
        self._failed.add(server)
        if len(self._failed) == len(self._access.servers):
            self._settled.set()


async def _end_other_tasks() -> None:
    """Cancel what still runs, repeatedly: a task of nats-py may swallow a cancellation."""
    for _ in range(CANCELLATIONS):
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if not others:
            return
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=RETRY)


def _is_no_eof_warning(record: logging.LogRecord) -> bool:
    """Return False for a warning of asyncio at the end of each connection of nats-py with TLS."""
    return "eof_received" not in record.getMessage()


def one_line(text: str) -> str:
    return " ".join(text.split())[:MAX_REASON]


def _line(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "JetStream does not answer"
    return one_line(str(error) or type(error).__name__)

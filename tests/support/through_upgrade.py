"""Clients that work all through an upgrade, and what they notice of it.

Desk, which sends callbacks and repeats what is not acknowledged; two that ask for a session again
and again, one of them with the client library's retries; and a subscriber from revision 0.
"""

import asyncio
import http.client
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager, suppress

import grpc

from benchmarks.callbacks import one
from desk.client import Client, ClientError
from desk.v1.event_pb2 import EventFilter, Verdict
from desk.v1.session_service_pb2 import GetSessionRequest
from desk.v1.session_service_pb2_grpc import SessionServiceStub
from tests.support.processes import SDK_APP_ID
from tests.support.waiting import PATIENCE

ASK_EVERY = 0.02
"""Seconds between two questions."""

REPEAT_AFTER = 0.05
"""Seconds until a callback is sent again that was not acknowledged."""


class Refused(Exception):
    """A callback was answered 503. Desk sends it again."""


EVERYTHING = EventFilter(
    verdicts=[
        Verdict.VERDICT_ACCEPTED,
        Verdict.VERDICT_REJECTED,
        Verdict.VERDICT_UNRECOGNISED,
    ]
)


class Calls:
    """The success of calls of one kind.

    Attributes:
        made: successful calls.
        failed: the others.
        longest: seconds of the longest call.
        gap: seconds, at most, from one success to the next.
    """

    def __init__(self) -> None:
        self.made = self.failed = 0
        self.longest = self.gap = 0.0
        self._last = 0.0

    @contextmanager
    def call(self, *failures: type[Exception]) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except failures:
            self.failed += 1
        else:
            now = time.monotonic()
            self.gap = max(self.gap, now - (self._last or now))
            self._last = now
            self.made += 1
        self.longest = max(self.longest, time.monotonic() - began)

    def __str__(self) -> str:
        return (
            f"{self.made} calls, {self.failed} failed, the longest {self.longest:.2f} s, "
            f"{self.gap:.2f} s at most between two successes"
        )


class Clients:
    """The clients, each at work inside the `with` block.

    Attributes:
        acknowledged: the revisions of the callbacks that Desk had acknowledged.
        refused: callbacks that were answered 503, as on a busy machine.
        received: the positions of the records that the subscriber got, as (revision, ordinal).
        revisions: of the answers of the client with retries.
        errors: what ended a client.
    """

    def __init__(self, http: tuple[str, int], target: str, known: str, *, rate: float) -> None:
        self._http, self._target, self._known, self._rate = http, target, known, rate
        self.acknowledged: list[int] = []
        self.refused = 0
        self.received: list[tuple[int, int]] = []
        self.errors: list[BaseException] = []
        self.desk, self.poller, self.impatient = Calls(), Calls(), Calls()
        self._sending, self._stopped = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=self._keep, args=(work,), daemon=True)
            for work in (self._send, lambda: asyncio.run(self._listen()))
        ]

    def __enter__(self) -> "Clients":
        self._sending.set()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_sending()
        self._stopped.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)
            assert not thread.is_alive()

    def stop_sending(self) -> None:
        self._sending.clear()
        self._threads[0].join(2 * PATIENCE)

    def _keep(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.errors.append(error)

    def _send(self) -> None:
        path = f"/?SdkAppid={SDK_APP_ID}&CallbackCommand=Desk.SessionEventNotify&contenttype=json"
        while self._sending.is_set():
            at = time.time_ns() // 1_000_000
            body = one(f"live-{len(self.acknowledged):06d}", "SessionBegin", at).body
            revision = 0
            while not revision and not self._stopped.is_set():
                connection = http.client.HTTPConnection(*self._http, timeout=PATIENCE)
                try:
                    with closing(connection), self.desk.call(OSError, http.client.HTTPException):
                        connection.request("POST", path, body)
                        response = connection.getresponse()
                        response.read()
                        if response.status == 503:
                            raise Refused
                        if response.status != 200:
                            raise OSError(response.status)
                        revision = int(response.getheader("Desk-Revision") or 0)
                except Refused:
                    self.refused += 1
                if not revision:
                    time.sleep(REPEAT_AFTER)
            if revision:
                self.acknowledged.append(revision)
                time.sleep(1 / self._rate)

    async def _listen(self) -> None:
        options = [("grpc.enable_retries", 0), ("grpc.max_reconnect_backoff_ms", 200)]
        async with (
            Client(self._target) as client,
            grpc.aio.insecure_channel(self._target, options=options) as channel,
        ):
            ask = SessionServiceStub(channel).GetSession
            request = GetSessionRequest(session_id=self._known)
            async with asyncio.TaskGroup() as tasks:
                work = [
                    tasks.create_task(self._subscribe(client)),
                    tasks.create_task(
                        self._poll(self.poller, lambda: client.get_session(self._known))
                    ),
                    tasks.create_task(self._poll(self.impatient, lambda: ask(request, timeout=3))),
                ]
                await asyncio.to_thread(self._stopped.wait)
                for task in work:
                    task.cancel()

    async def _poll(self, calls: Calls, ask: Callable[[], Awaitable[object]]) -> None:
        while True:
            with calls.call(ClientError, grpc.RpcError):
                await ask()
            await asyncio.sleep(ASK_EVERY)

    async def _subscribe(self, client: Client) -> None:
        with suppress(asyncio.CancelledError):
            async for update in client.subscribe(after_revision=0, event_filter=EVERYTHING):
                self.received += [(record.revision, record.ordinal) for record in update.records]

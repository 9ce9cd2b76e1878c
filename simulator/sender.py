"""Sends callbacks as Desk does: JSON bodies, all else in the URL, over keep-alive connections."""

import asyncio
import re
from collections.abc import Callable, Iterator
from enum import Enum
from hashlib import sha256
from time import time
from typing import NamedTuple

import aiohttp
import msgspec

from simulator.scripts import MALFORMED
from simulator.summary import Figures
from simulator.traffic import Delivery

COMMAND = "Desk.SessionEventNotify"

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two attempts at one callback, unless the service sends `Retry-After`."""

FIRST_ANSWER = 2.0
"""Seconds of attempts without any answer after which the URL counts as unreachable."""

_REVISION = re.compile(r"[1-9][0-9]{0,18}")


class Fate(Enum):
    """The result of a delivery: the service has the callback, has it not, or may have it."""

    KEPT = "kept"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Response(NamedTuple):
    """The answer to one attempt.

    Attributes:
        status: the HTTP status; None without an answer.
        wait: seconds to wait before the next attempt; None if the service does not say.
        revision: the header `Desk-Revision`, not parsed; empty without one.
        is_spooled: the journal has yet to give a revision.
    """

    status: int | None
    wait: float | None = None
    revision: str = ""
    is_spooled: bool = False


class Unreachable(Exception):
    """Nothing has ever answered at the URL."""


class SendOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a sender.

    Attributes:
        url: the callback URL as configured in the console.
        sdk_app_id: the app.
        token: signs each attempt; empty if callback authentication is off.
        rate: callbacks per second; None for as fast as the service answers.
        speed: seconds of event time per second, instead of a rate.
        concurrency: callbacks in flight at once, at most.
        timeout: seconds for one attempt.
        retry_for: seconds from the first attempt during which an unanswered callback is repeated.
    """

    url: str
    sdk_app_id: int
    token: str = ""
    rate: float | None = None
    speed: float | None = None
    concurrency: int = 32
    timeout: float = 5.0
    retry_for: float = 10.0

    def __repr__(self) -> str:
        return f"SendOptions(url={self.url!r}, sdk_app_id={self.sdk_app_id})"


class Sender:
    """Sends deliveries, many at once, and counts the results.

    With a rate or a speed the loop is open: each delivery is due at a time of its own, whether or
    not earlier ones have been answered, and its latency counts from that time. A slow service
    cannot improve its latencies by slowing the sender down.
    """

    def __init__(
        self,
        options: SendOptions,
        figures: Figures,
        *,
        on_fate: Callable[[Delivery, Fate, int | None], None] | None = None,
    ) -> None:
        """Prepare; `send` starts.

        Args:
            options: of all deliveries.
            figures: filled during `send`.
            on_fate: called with a delivery, its fate and, after a 200, the revision in the answer
                (0 without one).
        """
        self._options = options
        self._figures = figures
        self._on_fate = on_fate
        self._answered = False
        self._clock = asyncio.get_running_loop().time

    async def send(self, deliveries: Iterator[Delivery], *, begin: int | None = None) -> None:
        """Send all deliveries. After a cancellation, the figures have the results so far.

        Args:
            deliveries: in the order in which they are sent.
            begin: with a speed, the event time at which the run begins, ms; what is earlier is
                sent at once. None for that of the first delivery.

        Raises:
            Unreachable: no attempt got an answer.
        """
        started = self._clock()
        due = self._schedule(deliveries, started, begin)
        connector = aiohttp.TCPConnector(limit=self._options.concurrency)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector,
                    timeout=aiohttp.ClientTimeout(total=self._options.timeout),
                    cookie_jar=aiohttp.DummyCookieJar(),
                ) as http,
                asyncio.TaskGroup() as workers,
            ):
                for _ in range(self._options.concurrency):
                    workers.create_task(self._work(http, due))
        except ExceptionGroup as group:
            if group.subgroup(Unreachable):
                raise Unreachable from None
            raise
        finally:
            self._figures.seconds = self._clock() - started

    def _schedule(
        self, deliveries: Iterator[Delivery], started: float, begin: int | None
    ) -> Iterator[tuple[float, Delivery]]:
        rate, speed = self._options.rate, self._options.speed
        for number, delivery in enumerate(deliveries):
            begin = delivery.at if begin is None else begin
            if speed and delivery.at >= begin:
                yield started + (delivery.at - begin) / 1000 / speed, delivery
            else:
                yield (started + number / rate if rate else self._clock()), delivery

    async def _work(
        self, http: aiohttp.ClientSession, due: Iterator[tuple[float, Delivery]]
    ) -> None:
        for at, delivery in due:
            if (wait := at - self._clock()) > 0:
                await asyncio.sleep(wait)
            await self._deliver(http, delivery, at)

    async def _deliver(self, http: aiohttp.ClientSession, delivery: Delivery, at: float) -> None:
        self._figures.sent += 1
        fate, revision = Fate.UNKNOWN, None
        try:
            answer = await self._try(http, delivery)
            revision = self._revision(answer) if answer.status == 200 else None
            fate = self._count(answer.status, delivery)
        finally:  # also when cancelled; then the fate is unknown
            self._figures.unknown += fate is Fate.UNKNOWN
            if self._on_fate:
                self._on_fate(delivery, fate, revision)
        self._figures.latencies.append(self._clock() - at)

    def _count(self, status: int | None, delivery: Delivery) -> Fate:
        if status == 200:
            self._figures.accepted += 1
            return Fate.KEPT
        if status is None or status >= 500:
            return Fate.UNKNOWN
        self._figures.refused[status] += 1
        if status == 400 and delivery.callback.reason == MALFORMED:  # a malformed body is kept
            self._figures.as_expected += 1
            return Fate.KEPT
        return Fate.REFUSED

    def _revision(self, answer: Response) -> int | None:
        """Return the revision in an answer; 0 if it is missing or wrong, None if it comes later."""
        if answer.is_spooled:
            return None
        if _REVISION.fullmatch(answer.revision):
            return int(answer.revision)
        self._figures.misnumbered += answer.revision != ""
        return 0

    async def _try(self, http: aiohttp.ClientSession, delivery: Delivery) -> Response:
        """Attempt until there is a final answer or no time left. Return the last answer."""
        began, pause = self._clock(), FIRST_PAUSE
        while True:
            answer = await self._attempt(http, delivery)
            status = answer.status
            self._answered |= status is not None
            wait = pause if answer.wait is None else answer.wait
            patience = self._options.retry_for
            if not self._answered:
                patience = min(patience, FIRST_ANSWER)
            if (status is not None and status < 500) or self._clock() + wait > began + patience:
                break
            await asyncio.sleep(wait)
            self._figures.retries += 1
            pause = min(2 * pause, LONGEST_PAUSE)
        if not self._answered:
            raise Unreachable
        return answer

    async def _attempt(self, http: aiohttp.ClientSession, delivery: Delivery) -> Response:
        try:
            async with http.post(
                self._options.url,
                params=self._query(delivery),
                data=delivery.callback.body,
                headers={"Content-Type": "application/json"},
            ) as answer:
                await answer.read()
                wait = _retry_after(answer.headers.get("Retry-After", ""))
                revision = answer.headers.get("Desk-Revision", "")
                is_spooled = not revision and "Desk-Journal-Id" in answer.headers
                return Response(answer.status, wait, revision, is_spooled)
        except (aiohttp.ClientError, TimeoutError):
            return Response(None)

    def _query(self, delivery: Delivery) -> dict[str, str]:
        query = {
            "SdkAppid": str(self._options.sdk_app_id),
            "CallbackCommand": COMMAND,
            "contenttype": "json",
            "ClientIP": delivery.callback.client_ip,
            "OptPlatform": delivery.callback.platform,
            "RequestID": delivery.request_id,
        }
        return query | sign(self._options.token, int(time())) if self._options.token else query


def sign(token: str, now: int) -> dict[str, str]:
    """Return `Sign` and `RequestTime` (Unix seconds) for callback authentication."""
    digest = sha256(f"{token}{now}".encode()).hexdigest()
    return {"Sign": digest, "RequestTime": str(now)}


def _retry_after(value: str) -> float | None:
    return min(float(value), LONGEST_PAUSE) if value.isascii() and value.isdigit() else None

"""One schedule on a cluster: load, faults, and the check of all promises at the end."""

import asyncio
import http.client
import time
from collections import Counter
from collections.abc import Awaitable
from contextlib import closing
from random import Random
from typing import Any

import grpc
import msgspec
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from desk.client import Client
from desk.v1.status_pb2 import GetStatusResponse
from simulator.ledger import Ledger
from simulator.lives import make_lives
from simulator.scripts import MALFORMED
from simulator.sender import Fate, Sender, SendOptions
from simulator.summary import Figures
from simulator.traffic import Delivery, deliveries
from simulator.verify import Start, note_start, verify
from tests.chaos.cluster import Cluster
from tests.chaos.schedule import GATEWAYS, SECONDS, Fault, Schedule
from tests.chaos.subscriber import Hopper, Record, read_feed
from tests.support.processes import SDK_APP_ID

DELIVERIES = 13
"""Of a session, about."""

ANSWER_WITHIN = 2.5
"""Seconds after which the load gives up an attempt, as with a gateway that is frozen."""

RECOVER_WITHIN = 90.0
"""Seconds after the last fault in which all must be as before, on a busy machine."""

VERIFY_WITHIN = 120.0
"""Seconds that one replica has for the questions about its view."""

ASK_EVERY = 0.1
"""Seconds between two looks."""

MAX_PROBLEMS = 20
"""Problems that are described."""


class Result(msgspec.Struct, kw_only=True):
    """The result of a schedule.

    Attributes:
        seed: replays it.
        problems: broken promises; none if all is well.
        faults: number of faults, by kind; `skipped` ones would have met a part with another.
        figures: of load, subscriber and checks.
        seconds: of load and faults, of the recovery, and of the checks.
    """

    seed: int
    problems: list[str] = msgspec.field(default_factory=list)
    faults: dict[str, int] = msgspec.field(default_factory=dict)
    figures: dict[str, Any] = msgspec.field(default_factory=dict)
    seconds: list[float] = msgspec.field(default_factory=list)


class Trial:
    """One schedule on a cluster that works."""

    def __init__(self, cluster: Cluster, schedule: Schedule) -> None:
        self._cluster = cluster
        self._schedule = schedule
        self._random = Random(f"{schedule.seed}/trial")
        self._targets = [f"127.0.0.1:{port}" for port in cluster.grpc]
        self._ledger = Ledger(SDK_APP_ID)
        self._figures = Figures()
        self._counts: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._result = Result(seed=schedule.seed)

    async def run(self) -> Result:
        """Run it. What breaks on the way is a problem of the result."""
        try:
            await self._run()
        except ExceptionGroup as group:
            self._result.problems += [_line(error) for error in group.exceptions]
        except Exception as error:
            self._result.problems.append(_line(error))
        del self._result.problems[MAX_PROBLEMS:]
        self._result.faults = dict(self._faults)
        self._result.figures |= self._counts | {
            "sent": self._figures.sent,
            "accepted": self._figures.accepted,
            "retries": self._figures.retries,
            "unknown": self._figures.unknown,
        }
        return self._result

    async def _run(self) -> None:
        start = await self._timed(self._start())
        hopper = Hopper(self._targets, start.journal_id, start.revision, self._random)
        is_done = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(hopper.run(lambda: is_done.is_set() and hopper.revision >= head))
            async with asyncio.TaskGroup() as work:
                work.create_task(self._timed(self._load()))
                for number, fault in enumerate(self._schedule.faults):
                    work.create_task(self._let_happen(number, fault))
            head = await self._timed(self._recovery())
            is_done.set()
        self._counts |= hopper.counts
        self._result.problems += hopper.faults
        await self._timed(self._check(start, head, hopper.records))

    async def _timed(self, work: Awaitable[Any]) -> Any:
        began = time.monotonic()
        try:
            return await work
        finally:
            self._result.seconds.append(round(time.monotonic() - began, 1))

    async def _start(self) -> Start:
        """Wait until all is ready, and return the position."""
        await self._recovery()
        async with Client(self._targets[0]) as client:
            return await note_start(client)

    # ---- Load and faults ----

    async def _load(self) -> None:
        seed = self._schedule.seed
        lives = make_lives(
            round(self._schedule.rate * SECONDS / DELIVERIES),
            seed=seed,
            run=f"{seed}-{time.time_ns()}",
            now=round(time.time() * 1000),
            impossible=0.05,
            malformed=0.01,
        )
        traffic = deliveries(self._ledger.record(lives), seed=seed, duplicates=0.1, shuffle=0.3)
        options = SendOptions(
            url=f"http://127.0.0.1:{self._cluster.http}/",
            sdk_app_id=SDK_APP_ID,
            rate=self._schedule.rate,
            timeout=ANSWER_WITHIN,
            retry_for=self._schedule.retry_for,
        )
        await Sender(options, self._figures, on_fate=self._note).send(traffic)

    def _note(self, delivery: Delivery, fate: Fate, revision: int | None) -> None:
        self._ledger.note(delivery, fate, revision)
        is_malformed = delivery.callback.reason == MALFORMED
        self._counts["spooled"] += fate is Fate.KEPT and revision is None and not is_malformed

    async def _let_happen(self, number: int, fault: Fault) -> None:
        await asyncio.sleep(fault.at)
        random = Random(f"{self._schedule.seed}/fault/{number}")
        part = await asyncio.to_thread(self._cluster.begin, fault, random)
        self._faults[fault.kind if part else "skipped"] += 1
        if part:
            await asyncio.sleep(fault.lasts)
            await asyncio.to_thread(self._cluster.heal, fault, part)

    # ---- Recovery ----

    async def _recovery(self) -> int:
        """Wait until nothing is left of the faults; return the revision of all views."""
        end = time.monotonic() + RECOVER_WITHIN
        while troubles := await self._troubles():
            if time.monotonic() > end:
                raise AssertionError(f"not recovered: {'; '.join(troubles)}")
            await asyncio.sleep(ASK_EVERY)
        return self._head

    async def _troubles(self) -> list[str]:
        """Return the reasons for which the cluster is not as without faults."""
        troubles = []
        gateways = [desk for desk in self._cluster.desks if desk.name in GATEWAYS]
        for gateway in gateways:
            if trouble := await asyncio.to_thread(_readiness, gateway.port):
                troubles.append(f"{gateway.name}: {trouble}")
        try:
            self._head = await asyncio.to_thread(self._journal_head)
            for target in self._targets:
                if trouble := await self._trouble_of(target):
                    troubles.append(f"{target}: {trouble}")
        except Exception as error:
            troubles.append(_line(error))
        return troubles

    def _journal_head(self) -> int:
        with closing(self._cluster.reader()) as reader:
            return reader.head()

    async def _trouble_of(self, target: str) -> str:
        async with asyncio.timeout(5), Client(target) as client:
            status = await client.status()
            if status.header.revision != self._head:
                return f"at {status.header.revision} of {self._head}"
            if status.follower_problem or status.silent_processes:
                return f"{status.follower_problem} {list(status.silent_processes)}"
            async with grpc.aio.insecure_channel(target) as channel:
                health = await HealthStub(channel).Check(HealthCheckRequest())
        return "" if health.status == HealthCheckResponse.SERVING else "NOT_SERVING"

    # ---- Checks ----

    async def _check(self, start: Start, head: int, hopped: list[Record]) -> None:
        await asyncio.to_thread(self._check_journal, start.revision)
        for desk in self._cluster.desks:
            self._result.problems += [f"{desk.name} logs {each}" for each in desk.exceptions()]
        statuses: list[GetStatusResponse] = []
        for target in self._targets:
            async with asyncio.timeout(VERIFY_WITHIN), Client(target) as client:
                report = await verify(client, self._ledger, start)
                self._result.problems += [f"{target}: {each}" for each in report.details]
                self._counts["verified"] += report.callbacks
                self._counts["unknown_kept"] += report.unknown_kept
                self._counts["unknown_lost"] += report.unknown_lost
                self._compare(target, await read_feed(client, start.revision, head), hopped)
                statuses.append(await client.status())
        if len({(each.header.revision, each.feed_digest) for each in statuses}) > 1:
            found = [f"{each.header.revision} {each.feed_digest[:8]}" for each in statuses]
            self._result.problems.append(f"the digests differ: {found}")

    def _check_journal(self, after: int) -> None:
        """Compare the stream with the acknowledged callbacks."""
        stored: Counter[str] = Counter()
        with closing(self._cluster.reader()) as reader:
            head = reader.head()
            while after < head:
                for entry in reader.read(after, limit=1000):
                    after = entry.revision
                    stored[entry.id.hex()] += 1
        self._counts["stored"] = stored.total()
        self._counts["stored_twice"] = sum(stored.values()) - len(stored)
        for identity, sent in self._ledger.callbacks.items():
            if sent.fate is Fate.KEPT and identity not in stored:
                self._result.problems.append(
                    f"acknowledged, not in the stream: {sent.callback.session_id} "
                    f"{sent.callback.at}, revisions {sent.revisions}"
                )

    def _compare(self, target: str, feed: list[Record], hopped: list[Record]) -> None:
        self._counts["records"] = len(feed)
        if feed == hopped:
            return
        places = zip(feed, hopped, strict=False)
        first = next((n for n, (one, other) in enumerate(places) if one != other), len(hopped))
        self._result.problems.append(
            f"{target}: {len(feed)} records, the subscriber saw {len(hopped)}; they differ from "
            f"place {first} on: {[each[:2] for each in feed[first : first + 3]]}, "
            f"{[each[:2] for each in hopped[first : first + 3]]}"
        )


def _readiness(port: int) -> str:
    """Return what a gateway says of its health; empty if it has nothing to say."""
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", "/readyz")
            answer = msgspec.json.decode(connection.getresponse().read())
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        return _line(error)
    return str(answer["ErrorInfo"])


def _line(error: BaseException) -> str:
    if isinstance(error, ExceptionGroup):
        return "; ".join(_line(each) for each in error.exceptions)
    return f"{type(error).__name__}: {error}"[:500]

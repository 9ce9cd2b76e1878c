"""Services as replicas of one stream: a real nats-server, two followers, two workers."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import (
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
    closing,
    contextmanager,
    suppress,
)
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from nats.js import JetStreamContext

from desk.client import Client, Update
from desk.v1.session_service_pb2 import GetSessionRequest
from desk.v1.status_pb2 import GetStatusRequest, GetStatusResponse
from journal.entry import NewEntry
from journal.jetstream import JetStreamOptions, JetStreamReader, JetStreamWriter
from service.rpc.limits import Limits
from tests.support.callbacks import NOON, entry, life
from tests.support.rpc import (
    PATIENCE,
    Worker,
    World,
    reason,
    refusal,
    take,
    until,
    worker,
)

pytestmark = pytest.mark.tools

LIFE = ("SessionBegin", "ChatBot.UserSendMsg", "TransferringToHuman", "TransferToHumanSuccess")
LIMITS = Limits(guard_seconds=0.05, revision_seconds=0.3)
Status = health_pb2.HealthCheckResponse


def append(journal: JetStreamWriter, bodies: Sequence[bytes]) -> int:
    """Append callbacks; return the revision of the last."""
    last = 0
    for each in bodies:
        made = entry(1, each)
        new = NewEntry(**{name: getattr(made, name) for name in NewEntry.__struct_fields__})
        last = journal.append(new, timeout=PATIENCE).revision
    return last


@contextmanager
def following(options: JetStreamOptions, folder: Path) -> Iterator[World]:
    """Follow a stream, as a service with a directory of its own does."""
    folder.mkdir(exist_ok=True)
    made = World(folder, JetStreamReader(options))
    try:
        made.follow(idle=0.05, may_start_over=False)
        yield made
    finally:
        made.close()


@asynccontextmanager
async def replicas(
    options: JetStreamOptions, tmp_path: Path, *, limits: Limits = LIMITS
) -> AsyncIterator[list[tuple[World, Worker]]]:
    """Two services of a stream, each complete."""
    async with AsyncExitStack() as stack:
        worlds = [
            stack.enter_context(following(options, tmp_path / name)) for name in ("one", "two")
        ]
        for world in worlds:
            await asyncio.to_thread(world.wait)
        yield [
            (world, await stack.enter_async_context(worker(world, limits=limits)))
            for world in worlds
        ]


async def status(serving: Worker) -> GetStatusResponse:
    answer: GetStatusResponse = await serving.status.GetStatus(GetStatusRequest())
    return answer


async def is_serving(serving: Worker) -> bool:
    check: Any = HealthStub(serving.channel).Check  # type: ignore[no-untyped-call]
    answer = await check(health_pb2.HealthCheckRequest())
    return bool(answer.status == Status.SERVING)


async def began(serving: Worker) -> Any:
    """Return a stream that has begun: a replica that may not lag ends it on a busy machine."""

    async def attempt() -> Any:
        stream = serving.subscribe(after_revision=0)
        with suppress(AssertionError):
            await take(stream)
            return stream
        return None

    return await until(attempt)


async def stopped(serving: Worker, why: str) -> GetStatusResponse:
    """Wait until a worker is NOT_SERVING for a reason."""

    async def is_stopped() -> GetStatusResponse | None:
        found = await status(serving)
        if why in found.not_serving_reason and not await is_serving(serving):
            return found
        return None

    found: GetStatusResponse = await until(is_stopped, within=2 * PATIENCE)
    return found


def targets(*workers: Worker) -> str:
    return ", ".join(f"127.0.0.1:{each.port}" for each in workers)


# ---- Equal views ----


async def test_replicas_have_equal_digests_at_equal_revisions(journal, options, tmp_path):
    bodies = [each for n in range(20) for each in life(*LIFE, session_id=f"s{n}", start=NOON + n)]
    append(journal, bodies[1::2])
    async with replicas(options, tmp_path) as ((_, one), (_, two)):
        last = append(journal, bodies[::2])  # late; one batch or many
        await one.revision(last)
        await two.revision(last)
        first, second = await status(one), await status(two)
        assert first.header == second.header
        assert first.feed_digest == second.feed_digest
        assert first.fingerprint == second.fingerprint
        assert (first.lag, first.not_serving_reason) == (0, "")


async def test_a_subscriber_hops_to_another_replica_and_misses_nothing(journal, options, tmp_path):
    append(journal, life(*LIFE, session_id="a"))
    async with (
        replicas(options, tmp_path) as ((_, one), (_, two)),
        Client(targets(one, two), reconnect_delay=0.01) as client,
        aclosing(client.subscribe(after_revision=0)) as updates,
    ):
        seen: list[int] = []
        await _read(updates, seen, 4)
        serving, other = (one, two) if await one.subscribers() else (two, one)
        last = append(journal, life(*LIFE, session_id="b")[:2])
        await _read(updates, seen, last)
        serving.stop.set()  # it ends its streams; a killed one breaks them
        await serving.task
        last = append(journal, life(*LIFE, session_id="c"))
        await _read(updates, seen, last)
        assert seen == list(range(1, last + 1))
        assert await other.subscribers() == 1
        assert (await client.get_session("c", min_revision=last)).revision >= last


async def _read(updates: AsyncIterator[Update], seen: list[int], last: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while not seen or seen[-1] < last:
            seen += [record.revision for record in (await anext(updates)).records]


# ---- A replica that lags ----


async def test_a_replica_behind_the_resume_point_says_so_and_the_client_goes_to_another(
    journal, options, tmp_path
):
    append(journal, life(*LIFE, session_id="a"))
    async with replicas(options, tmp_path) as ((_, one), (behind, two)):
        await asyncio.to_thread(behind.stop_following)
        last = append(journal, life(*LIFE, session_id="b"))
        await one.revision(last)
        error = await refusal(two.subscribe(after_revision=last, journal_id=journal.id))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert reason(error) == "REVISION_NOT_REACHED"
        async with Client(targets(two, one), reconnect_delay=0.01) as client:
            updates = client.subscribe(after_revision=last, journal_id=journal.id)
            async with aclosing(updates), asyncio.timeout(PATIENCE):
                assert (await anext(updates)).revision == last


async def test_a_read_of_a_revision_waits_for_a_replica_that_lags(journal, options, tmp_path):
    append(journal, life(*LIFE, session_id="a"))
    patient = Limits(guard_seconds=0.05, revision_seconds=PATIENCE)
    async with replicas(options, tmp_path, limits=patient) as (_, (behind, two)):
        await asyncio.to_thread(behind.stop_following)
        last = append(journal, life(*LIFE, session_id="b"))
        request = GetSessionRequest(session_id="b", min_revision=last)
        error = await refusal(two.sessions.GetSession(request, timeout=0.2))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        call = two.sessions.GetSession(request)
        behind.follow(idle=0.05)
        assert (await call).header.revision >= last


async def test_a_replica_that_lags_is_not_serving_and_ends_its_streams_until_it_has_caught_up(
    journal, options, tmp_path
):
    append(journal, life(*LIFE, session_id="a"))
    limits = Limits(guard_seconds=0.05, lag_seconds=3.0)
    async with replicas(options, tmp_path, limits=limits) as (_, (behind, two)):
        await until(lambda: is_serving(two))
        stream = await began(two)
        await asyncio.to_thread(behind.stop_following)
        await stopped(two, "the follower has not read the journal for")
        assert reason(await refusal(stream)) == "SHUTTING_DOWN"
        await began(two)  # it still answers, and says how old that is
        behind.follow(idle=0.05)
        await until(lambda: is_serving(two))


async def test_a_stream_that_begins_at_a_replica_that_lags_ends_soon_for_its_client_to_go_on(
    journal, options, tmp_path
):
    append(journal, life(*LIFE, session_id="a"))
    limits = Limits(guard_seconds=0.05, lag_seconds=0.2, stale_seconds=2.0)
    async with replicas(options, tmp_path, limits=limits) as (_, (behind, two)):
        await asyncio.to_thread(behind.stop_following)
        await stopped(two, "the follower has not read the journal for")
        stream = await began(two)
        assert reason(await refusal(stream)) == "SHUTTING_DOWN"


# ---- A journal that has diverged ----


async def _delete(js: JetStreamContext, name: str) -> None:
    await js.delete_stream(name)


async def test_a_stream_that_was_deleted_and_made_again_stops_the_service(
    nats, journal, options, tmp_path
):
    append(journal, life(*LIFE, session_id="a"))
    async with replicas(options, tmp_path) as ((world, one), _):
        before = await status(one)
        await asyncio.to_thread(nats.manage, lambda js: _delete(js, options.stream.name))
        with closing(await asyncio.to_thread(JetStreamWriter, options)) as other:
            append(other, life(*LIFE, session_id="other")[:2])
            found = await stopped(one, "JOURNAL_DIVERGED: ")
            assert f"the stream {options.stream.name} holds another" in found.follower_problem
            world.journal.close()
            await asyncio.to_thread(world.stop_following)
            world.journal = await asyncio.to_thread(JetStreamReader, options)  # as after a restart
            world.follow(idle=0.05, may_start_over=False)
            found = await stopped(one, "JOURNAL_DIVERGED: the journal is another one")
        assert (found.header, found.feed_digest) == (before.header, before.feed_digest)


async def test_entries_that_were_removed_before_they_were_applied_stop_the_service(
    nats, journal, options, tmp_path
):
    append(journal, life(*LIFE, session_id="a"))
    async with replicas(options, tmp_path) as ((_, one), (behind, two)):
        await asyncio.to_thread(behind.stop_following)
        last = append(journal, life(*LIFE, session_id="b"))
        await one.revision(last)

        async def purge(js: JetStreamContext) -> None:
            await js.purge_stream(options.stream.name, seq=last)

        await asyncio.to_thread(nats.manage, purge)
        behind.follow(idle=0.05)
        await stopped(two, f"JOURNAL_DIVERGED: revisions 5 to {last - 1} are gone")
        more = append(journal, life(*LIFE, session_id="c"))
        await one.revision(more)  # which had all that was removed
        await until(lambda: is_serving(one))


@pytest.mark.parametrize(
    ("lives_after", "difference"),
    [(0, "the journal ends at revision 4, this view at 8"), (1, "revision 8 is another callback")],
)
async def test_an_older_store_that_was_put_back_stops_the_service(
    own_nats, tmp_path, lives_after, difference
):
    store, copy = tmp_path / "nats" / "store", tmp_path / "copy"
    options = own_nats.options("desk")
    with closing(own_nats.writer("desk")) as journal:
        append(journal, life(*LIFE, session_id="a"))
    own_nats.stop()
    shutil.copytree(store, copy)
    own_nats.start()
    with following(options, tmp_path / "one") as world:
        with closing(own_nats.writer("desk")) as journal:
            append(journal, life(*LIFE, session_id="lost"))
        await asyncio.to_thread(world.wait)
        async with worker(world, limits=LIMITS) as one:
            await one.revision(8)
            before = await status(one)
            own_nats.stop()
            shutil.rmtree(store)
            shutil.move(copy, store)
            if lives_after:  # before the service sees it
                port, own_nats.port = own_nats.port, -1
                own_nats.start()
                with closing(own_nats.writer("desk")) as journal:
                    append(journal, life(*LIFE, session_id="new", start=NOON + 1))
                own_nats.stop()
                own_nats.port = port
            own_nats.start()
            found = await stopped(one, f"JOURNAL_DIVERGED: {difference}")
            assert found.feed_digest == before.feed_digest

"""Live pages: events without gaps, their limits, what is closed, and what is left behind."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any, Literal

import pytest

from console.live import Live, TooManyListeners
from console.page import LivePage, Piece
from console.query import Query
from console.site import Site
from service.rpc.limits import Limits
from tests.support.callbacks import NOON, SESSION, life
from tests.support.console import Console, console, shown
from tests.support.loopback import reserved_port
from tests.support.rpc import PATIENCE, Worker, until, worker, world

LIFE = ("SessionBegin", "ChatBot.UserSendMsg", "TransferringToHuman", "TransferringToHumanWait")

QUICK = Limits(checkpoint_seconds=(0.05, 0.06))
"""Signs of life of a service that come often."""


KEPT_ALIVE = 30.0
"""Seconds: less than a connection on which nothing moves is kept."""


@pytest.fixture(autouse=True)
def quick_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.live.KEEP_ALIVE", 0.1)


def subscribed(serving: Worker, number: int) -> Callable[[], Awaitable[bool]]:
    """A condition: the service has so many open streams."""

    async def is_so() -> bool:
        return await serving.subscribers() == number

    return is_so


def large_session() -> list[bytes]:
    """The callbacks of a session whose page is larger than the buffers of a connection."""
    text = [{"MsgType": "TIMTextElem", "MsgContent": {"Text": "x" * 250_000}}]
    events = ("SessionBegin", *["ChatBot.UserSendMsg"] * 19)
    return [
        each
        for number, event in enumerate(events)
        for each in life(event, start=NOON + number, MsgBody=text, MsgKey=str(number))
    ]


@contextmanager
def unread(made: Console, path: str) -> Iterator[socket.socket]:
    """A browser that asks for a page and does not read it."""
    with socket.socket() as browser:
        browser.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        browser.connect(made.address)
        browser.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        browser.setblocking(False)
        yield browser


def is_answered(browser: socket.socket) -> Callable[[], Awaitable[bool]]:
    """A condition: the answer has begun."""

    async def is_so() -> bool:
        with suppress(BlockingIOError):
            return bool(browser.recv(1, socket.MSG_PEEK))
        return False

    return is_so


async def test_the_board_changes_while_it_is_open():
    async with shown(*life("SessionBegin")) as (made, world, _), made.events("/board/live") as live:
        name, html = await live.next()
        assert (name, "Nobody waits." in html) == ("replace", True)
        world.append(*life(*LIFE)[1:])
        async with asyncio.timeout(PATIENCE):
            while "Nobody waits." in html:
                _, html = await live.next()
        assert SESSION in html


async def test_the_feed_goes_on_while_it_is_open():
    async with shown(*life(*LIFE[:1])) as (made, world, worker):
        async with made.events("/feed/live") as live:
            await until(subscribed(worker, 1))
            world.append(*life(*LIFE)[1:2])
            name, html = await live.next()
        assert name == "prepend"
        assert "ChatBot.UserSendMsg" in html


async def test_a_feed_misses_nothing_between_its_page_and_its_events():
    first, second, third, fourth = life(*LIFE)
    async with shown(first) as (made, world, worker):
        revision = (await made.get("/feed.json")).document["revision"]
        await worker.revision(world.append(second))
        async with made.events(f"/feed/live?after={revision}") as early:
            assert "ChatBot.UserSendMsg" in (await early.next())[1]
            world.append(third)
            assert "TransferringToHuman" in (await early.next())[1]
            async with made.events(f"/feed/live?after={revision}") as late:  # the same source
                assert "ChatBot.UserSendMsg" in (await late.next())[1]
                assert "TransferringToHuman" in (await late.next())[1]
                world.append(fourth)
                assert (await early.next())[1] == (await late.next())[1]
                assert await worker.subscribers() == 1


async def test_a_feed_that_is_out_of_date_is_loaded_again():
    sessions = [life("SessionBegin", session_id=f"s{number}")[0] for number in range(520)]
    async with shown(*sessions) as (made, world, _):
        for after in ("1", "521", "9999999"):
            async with made.events(f"/feed/live?after={after}") as live:
                assert (await live.next())[0] == "reload", after
        async with made.events("/feed/live?after=520") as live:
            await live.next(until="live")
            async with made.events("/feed/live?after=519") as older:
                assert (await older.next())[0] == "reload"
            world.forget("s7")
            name, why = await live.next()
            assert (name, why) == ("reload", "sessions have been forgotten")


async def test_rejected_records_are_in_the_feed_unless_a_verdict_is_chosen():
    impossible = life("ChatBot.UserSendMsg")[0]
    async with shown(*life("SessionBegin", session_id="other"), impossible) as (made, _, _):
        verdicts = {
            query: [
                each["verdict"]
                for each in (await made.get(f"/feed.json{query}")).document["records"]
            ]
            for query in ("", "?verdict=ACCEPTED", "?verdict=rejected")
        }
        assert verdicts == {
            "": ["VERDICT_REJECTED", "VERDICT_ACCEPTED"],
            "?verdict=ACCEPTED": ["VERDICT_ACCEPTED"],
            "?verdict=rejected": ["VERDICT_REJECTED"],
        }


async def test_200_pages_share_one_stream_and_leave_nothing_behind():
    async with shown(*life("SessionBegin")) as (made, world, worker):
        await made.get("/feed")
        tasks = len(asyncio.all_tasks())
        for events in range(1, 3):
            async with AsyncExitStack() as pages:
                opened = [
                    await pages.enter_async_context(made.events("/feed/live")) for _ in range(200)
                ]
                await until(subscribed(worker, 1))
                world.append(*life(*LIFE)[events : events + 1])
                got = await asyncio.gather(*(each.next() for each in opened))
                assert len(set(got)) == 1
            await until(subscribed(worker, 0))

            async def tasks_have_ended() -> bool:
                return len(asyncio.all_tasks()) <= tasks

            await until(tasks_have_ended)


class Counting(LivePage):
    """A page that shows numbers, as many as it is told to."""

    path, title = "/counting", "Counting"

    def __init__(self, event: Literal["replace", "prepend"], numbers: int) -> None:
        client: Any = None
        super().__init__(Site(client, replicas={}))
        self.event = event  # type: ignore[misc]
        self.numbers = numbers
        self.go_on = asyncio.Event()

    async def live(self, query: Query, after: int | None) -> AsyncGenerator[Piece, None]:
        yield Piece(1, "first")
        await self.go_on.wait()
        for number in range(2, self.numbers):
            yield Piece(number, str(number))
        if not self.numbers:
            raise RuntimeError("a fault")
        await asyncio.Event().wait()


async def test_listeners_and_their_different_queries_have_a_limit():
    live = Live(Counting("replace", 1))
    listening = [live.listen(Query({"app": str(number % 50)})) for number in range(1_000)]
    for each in listening:
        assert b"first" in await anext(each)
    assert live.channels == 50
    with pytest.raises(TooManyListeners, match="1000 pages are live"):
        live.listen(Query({"app": "1"}))
    await listening[0].close()
    with pytest.raises(TooManyListeners, match="50 different queries"):
        live.listen(Query({"app": "51"}))
    for each in listening:
        await each.close()
    assert live.channels == 0


async def test_a_live_page_too_many_or_with_a_wrong_query_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("console.live.MAX_LISTENERS", 1)
    async with shown() as (made, _, _):
        for path in ("/feed/live?type=nonsense", "/board/live?waiting=many", "/feed/live?after=x"):
            refused = await made.get(path)
            assert (refused.status, refused.document["error"]["reason"]) == (400, "BadQuery")
        async with made.events("/feed/live") as live:
            await live.next(until="live")
            refused = await made.get("/feed/live?app=1")
            assert refused.status == 503
            assert refused.headers["Retry-After"]
            assert "live already" in refused.document["error"]["message"]


async def test_a_page_that_does_not_keep_up_is_told_to_load_again():
    page = Counting("prepend", 200)
    live = Live(page)
    slow = live.listen(Query({}))
    assert b"first" in await anext(slow)
    page.go_on.set()
    await asyncio.sleep(0)
    got = [event async for event in slow]
    assert got[-1].startswith(b"event: reload")
    assert len(got) < 200
    assert live.channels == 0


async def test_a_fault_in_a_live_part_is_told_and_logged(caplog: pytest.LogCaptureFixture):
    page = Counting("replace", 0)
    listener = Live(page).listen(Query({}))
    await anext(listener)
    page.go_on.set()
    assert [event async for event in listener] == [
        b'event: problem\ndata: "the console failed"\n\n'
    ]
    assert "a fault" in caplog.text


@pytest.mark.tools
async def test_a_service_that_goes_away_is_told_and_comes_back_by_itself(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("console.live.AWAY_AFTER", 1.0)
    monkeypatch.setattr("console.live.RETRY", 0.1)
    with reserved_port() as port, world(life("SessionBegin")) as journal:
        journal.wait()
        async with AsyncExitStack() as stack:
            async with worker(journal, limits=QUICK, port=port):
                made = await stack.enter_async_context(console(f"127.0.0.1:{port}"))
                live = await stack.enter_async_context(made.events("/feed/live?after=1"))
                await live.next(until="live")
            await live.next(until="away")
            assert (await made.get("/feed")).status == 503
            # A page that comes, or comes back, meanwhile.
            other = await stack.enter_async_context(made.events("/feed/live?after=1&rows=1"))
            await other.next(until="away")
            journal.append(*life(*LIFE)[1:2])
            async with worker(journal, limits=QUICK, port=port):
                assert "ChatBot.UserSendMsg" in (await live.next(until="prepend"))[1]
                assert "ChatBot.UserSendMsg" in (await other.next(until="prepend"))[1]
                await live.next(until="live")


async def test_a_console_ends_in_order_with_pages_open(caplog: pytest.LogCaptureFixture):
    async with shown() as (made, _, _), AsyncExitStack() as stack:
        for path in ("/feed/live", "/board/live") * 20:
            live = await stack.enter_async_context(made.events(path))
        await live.next()
        made.stop.set()
        await asyncio.wait_for(made.serving, KEPT_ALIVE)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.tools
async def test_a_console_ends_although_a_browser_reads_nothing(
    caplog: pytest.LogCaptureFixture,
):
    async with shown(*large_session()) as (made, _, _):
        with unread(made, f"/session.json?id={SESSION}") as browser:
            await until(is_answered(browser))
            made.stop.set()
            await asyncio.wait_for(made.serving, KEPT_ALIVE)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.tools
async def test_connections_on_which_nothing_moves_are_closed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("console.connections.PATIENCE", 1.0)
    async with shown(*large_session()) as (made, _, _), made.events("/feed/live") as live:
        await live.next(until="live")
        beginnings = (
            b"", b"GET /ta", b"GET /table HTTP/1.1\r\nHost: localhost\r\n",
            b"GET /table HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n",
            b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\nGET /liv",
        )  # fmt: skip
        await asyncio.gather(*(is_hung_up_on(made, each) for each in beginnings))
        # On a busy machine it may be closed before it was seen to be answered.
        for _ in range(4):
            if closed := await closes_unread(made):
                break
        assert closed
        await live.next(until="live")  # is left alone


async def closes_unread(made: Console) -> bool:
    """Ask for a large page without reading it; return True if its connection is seen to close."""
    with unread(made, f"/session.json?id={SESSION}") as browser, suppress(TimeoutError):
        await until(is_answered(browser), within=PATIENCE / 4)
        files = len(os.listdir("/proc/self/fd"))

        async def is_closed() -> bool:
            return len(os.listdir("/proc/self/fd")) < files

        await until(is_closed, within=PATIENCE / 4)
        return True
    return False


async def is_hung_up_on(made: Console, beginning: bytes) -> None:
    reader, writer = await asyncio.open_connection(*made.address)
    writer.write(beginning)
    with suppress(ConnectionResetError):
        async with asyncio.timeout(PATIENCE):
            await reader.read()
    writer.close()


async def test_work_for_a_browser_that_has_left_is_cancelled():
    with socket.create_server(("127.0.0.1", 0)) as mute:
        async with console(f"127.0.0.1:{mute.getsockname()[1]}", timeout=60.0) as made:
            tasks = len(asyncio.all_tasks())
            _, writer = await asyncio.open_connection(*made.address)
            writer.write(b"GET /sessions HTTP/1.1\r\nHost: localhost\r\n\r\n")

            async def is_working() -> bool:
                return len(asyncio.all_tasks()) >= tasks + 3

            async def is_cancelled() -> bool:
                return len(asyncio.all_tasks()) <= tasks

            await until(is_working)
            writer.close()
            await until(is_cancelled)

"""Pages that stay open: many that come and go, a service and a console that start again."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from desk.v1.status_pb2 import GetStatusRequest
from desk.v1.status_pb2_grpc import StatusServiceStub
from tests.support.browser import CHROMIUM, DRIVER, browser, text
from tests.support.callbacks import life
from tests.support.console import console_process
from tests.support.loopback import reserved_port
from tests.support.processes import RunningDesk, start
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and its driver"),
]

PAGES, TABS = 200, 5
"""Pages that are open at once, and how many of them in the browser, which opens six connections."""

ROUNDS = 4

MEMORY = 12 * 1024 * 1024
"""Bytes that the console may have grown by after the first rounds."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    with start("serve", data_dir=tmp_path_factory.mktemp("open") / "data") as running:
        assert running.post(life("SessionBegin")[0])[0] == 200
        yield running


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Any]:
    with browser(tmp_path / "profile") as made:
        yield made


def status(driver: Any) -> str:
    return text(driver, "[data-status]")


def streams(target: str) -> int:
    """Open streams of the service."""
    with grpc.insecure_channel(target) as channel:
        stub: Any = StatusServiceStub(channel)
        return int(stub.GetStatus(GetStatusRequest()).subscribers)


def files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory(pid: int) -> int:
    """Bytes of a process that are its own."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private"))


async def open_pages(address: str, number: int) -> None:
    """Load as many pages as clients of their own, listen to each, and leave."""
    connections = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(connector=connections, read_bufsize=2**20) as session,
        AsyncExitStack() as stack,
    ):
        lives = []
        for place in range(number):
            path = ("board", "feed")[place % 2]
            async with session.get(f"http://{address}/{path}") as page:
                assert page.status == 200
                await page.read()
            live = await stack.enter_async_context(session.get(f"http://{address}/{path}/live"))
            assert live.status == 200
            lives.append(live)
        async with asyncio.timeout(60):
            await asyncio.gather(*(each.content.readuntil(b"\n\n") for each in lives))


def test_200_pages_come_and_go_and_leave_nothing_behind(
    desk: RunningDesk, driver: Any, tmp_path: Path
) -> None:
    with console_process(desk.target, tmp_path) as (running, address):
        before = files(running.pid)
        used = []
        for _ in range(ROUNDS):
            home = driver.current_window_handle
            for _ in range(TABS):
                driver.switch_to.new_window("tab")
                driver.get(f"http://{address}/board")
                eventually(lambda: status(driver) == "Live.")
            asyncio.run(open_pages(address, PAGES - TABS))
            for handle in driver.window_handles:
                if handle != home:
                    driver.switch_to.window(handle)
                    driver.close()
            driver.switch_to.window(home)
            eventually(lambda: streams(desk.target) == 0)
            used.append(memory(running.pid))
        eventually(lambda: files(running.pid) <= before + 6, within=60)  # those kept alive
        assert used[-1] - used[1] < MEMORY, used
        assert running.terminate() == 0
        assert running.stderr == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_console_ends_within_seconds_while_a_page_is_open(
    desk: RunningDesk, driver: Any, tmp_path: Path, signum: int
) -> None:
    with console_process(desk.target, tmp_path) as (running, address):
        driver.get(f"http://{address}/feed")
        eventually(lambda: status(driver) == "Live.")
        begun = time.monotonic()
        assert running.terminate(signum) == 0
        assert time.monotonic() - begun < 30  # a connection is kept alive for longer
        assert running.stderr == []


def test_a_page_says_that_the_console_is_gone_and_goes_on_when_it_is_back(
    desk: RunningDesk, driver: Any, tmp_path: Path
) -> None:
    with reserved_port() as port:
        with console_process(desk.target, tmp_path, port) as (running, address):
            driver.get(f"http://{address}/feed")
            eventually(lambda: status(driver) == "Live.")
            assert running.terminate() == 0
        eventually(lambda: status(driver) == "The connection is lost; trying again.")
        assert desk.post(life("SessionBegin", session_id="meanwhile")[0])[0] == 200
        with console_process(desk.target, tmp_path, port):
            eventually(lambda: "meanwhile" in text(driver, "tbody"))
            eventually(lambda: status(driver) == "Live.")


def test_a_page_says_that_the_service_does_not_answer_and_goes_on_when_it_does(
    desk: RunningDesk, driver: Any, tmp_path: Path
) -> None:
    with console_process(desk.target, tmp_path) as (_, address):
        driver.get(f"http://{address}/feed")
        eventually(lambda: status(driver) == "Live.")
        os.killpg(desk.pid, signal.SIGSTOP)
        try:
            eventually(
                lambda: status(driver) == "Not live now: the service does not answer.", within=90
            )
        finally:
            os.killpg(desk.pid, signal.SIGCONT)
        eventually(lambda: status(driver) == "Live.", within=90)
        assert desk.post(life("SessionBegin", session_id="afterwards")[0])[0] == 200
        eventually(lambda: "afterwards" in text(driver, "tbody"))

"""A person is erased while others' traffic goes on: subscribers, files, digests, verification."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from desk.client import Client, NotFound, Update
from desk.v1.status_pb2 import GetStatusResponse
from tests.support.callbacks import NOON
from tests.support.files import files_with
from tests.support.nats import MIB, nats_server
from tests.support.processes import SDK_APP_ID, RunningDesk, environment, run, start, wait_until

pytestmark = pytest.mark.tools

MARKER = "a-secret-that-must-be-gone"
NAMES = [f"of-the-person-{number}" for number in range(20)]
WITHIN = 90.0
"""Seconds; the machine may be busy."""


def life_of(session_id: str) -> Iterator[dict[str, Any]]:
    """The callbacks of a session of the person; the last one comes too late to be accepted."""
    text = [{"MsgType": "TIMTextElem", "MsgContent": {"Text": f"{MARKER} {session_id}"}}]
    events = ("SessionBegin", "ChatBot.UserSendMsg", "SessionUserEnd", "SessionEnd")
    for place, event in enumerate((*events, "ChatBot.UserSendMsg")):
        yield {
            "SessionId": session_id,
            "Event": event,
            "EventTime": NOON + place * 1_000,
            "ClientUserId": "the-person",
            "MsgBody": text,
            "CloudCustomData": MARKER,
        }


def send(gateway: RunningDesk, names: list[str]) -> None:
    for name in names:
        for body in life_of(name):
            assert gateway.post(body)[0] == 200
            assert gateway.post(body)[0] == 200  # repeated


@contextmanager
def traffic(gateway: RunningDesk, target: str) -> Iterator["subprocess.Popen[str]"]:
    """Other sessions, which the simulator compares in the end with what became of them."""
    host, port = gateway.http
    arguments = ("--app", str(SDK_APP_ID), "--sessions", "40", "--rate", "100", "--shuffle", "20%")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "command", "simulate", f"http://{host}:{port}/", *arguments),
            *("--json", "--verify", target),
        ],
        env=environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def assert_verified(process: "subprocess.Popen[str]") -> None:
    stdout, stderr = process.communicate(timeout=WITHIN)
    assert process.returncode == 0, stderr + stdout
    assert json.loads(stdout)["verification"]["details"] == []


class Subscriber:
    """Follows the feed, and keeps a copy of what it knows of the person."""

    def __init__(self) -> None:
        self.copies: set[str] = set()
        self.order: list[tuple[int, str]] = []

    async def follow(self, target: str, until: set[str]) -> None:
        """Read until all sessions in `until` are forgotten."""
        gone: set[str] = set()
        async with Client(target, reconnect_delay=0.05) as client:
            updates = client.subscribe(after_revision=0)
            async with aclosing(updates), asyncio.timeout(WITHIN):
                while not gone >= until:
                    gone |= self._take(await anext(updates))

    def _take(self, update: Update) -> set[str]:
        for record in update.records:
            if record.event.client_user_id == "the-person":
                self.copies.add(record.event.session_id)
                self.order.append((record.revision, "record"))
        if update.forgotten is None:
            return set()
        gone = set(update.forgotten.session_ids)
        self.copies -= gone
        self.order.append((update.forgotten.revision, "forgotten"))
        return gone


async def poll(target: str) -> str:
    """Ask for a session of the person until it is refused; return the reason."""
    async with Client(target) as client:
        async with asyncio.timeout(WITHIN):
            while True:
                try:
                    await client.get_session(NAMES[0])
                except NotFound as error:
                    return error.reason
                await asyncio.sleep(0.02)


def forget(target: str) -> None:
    done = run("forget", "--user", "the-person", "--yes", target=target, timeout=WITHIN)
    assert done.returncode == 0, done.stderr
    assert f"{len(NAMES)} sessions" in done.stdout


def containing(folder: Path) -> list[str]:
    """The files that have the marker."""
    return files_with(MARKER.encode(), folder)


def status_of(target: str) -> GetStatusResponse:
    async def ask() -> GetStatusResponse:
        async with Client(target) as client:
            return await client.status()

    return asyncio.run(ask())


def wait_until_deleted(target: str) -> None:
    """Wait until the bytes of what was forgotten are deleted from the journal."""
    wait_until(lambda: status_of(target).entries_to_delete == 0)


def digest_at(target: str, revision: int) -> str:
    """The digest of a view that has come to a revision and no further."""
    wait_until(lambda: status_of(target).header.revision >= revision)
    status = status_of(target)
    assert status.header.revision == revision
    return status.feed_digest


async def test_a_person_is_erased_while_traffic_goes_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with start("serve", data_dir=data) as desk:
        await asyncio.to_thread(send, desk, NAMES)
        assert containing(data), "the test looks into the right files"
        with traffic(desk, desk.target) as others:
            subscriber = Subscriber()
            following = asyncio.create_task(subscriber.follow(desk.target, set(NAMES)))
            polling = asyncio.create_task(poll(desk.target))
            await asyncio.sleep(0)
            while subscriber.copies != set(NAMES):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.to_thread(forget, desk.target)
            await following
            assert await polling == "FORGOTTEN"
            await asyncio.to_thread(assert_verified, others)
        assert subscriber.copies == set()
        assert subscriber.order == sorted(subscriber.order)
        assert subscriber.order[-1][1] == "forgotten"
        await asyncio.to_thread(wait_until, lambda: containing(data) == [])
        await asyncio.to_thread(wait_until_deleted, desk.target)
        lived = await asyncio.to_thread(status_of, desk.target)
        assert desk.terminate() == 0
    assert containing(data) == []
    for view in data.glob("view-*.db*"):
        view.unlink()
    with start("serve", data_dir=data) as desk:
        revision = lived.header.revision
        assert await asyncio.to_thread(digest_at, desk.target, revision) == lived.feed_digest
        rebuilt = await asyncio.to_thread(status_of, desk.target)
        assert rebuilt.oldest_revision == lived.oldest_revision
        assert await poll(desk.target) == "FORGOTTEN"


async def test_a_person_is_erased_on_two_replicas_one_of_which_was_stopped(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(nats_server(tmp_path / "nats"))
        settings = {"DESK_JOURNAL": server.url, "DESK_NATS_MAX_BYTES": str(64 * MIB)}

        def replica(name: str) -> RunningDesk:
            return stack.enter_context(start("service", data_dir=tmp_path / name, **settings))

        gateway = stack.enter_context(start("gateway", data_dir=tmp_path / "g", **settings))
        gateway.ready()
        one, two = replica("one"), replica("two")
        await asyncio.to_thread(send, gateway, NAMES)
        head = (await asyncio.to_thread(status_of, one.target)).head_revision
        await asyncio.to_thread(wait_until, lambda: status_of(two.target).header.revision >= head)
        assert two.terminate() == 0
        assert containing(tmp_path / "two")
        with traffic(gateway, one.target) as others:
            subscriber = Subscriber()
            following = asyncio.create_task(subscriber.follow(one.target, set(NAMES)))
            while subscriber.copies != set(NAMES):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.to_thread(forget, one.target)
            await following
            await asyncio.to_thread(assert_verified, others)
        lived = await asyncio.to_thread(status_of, one.target)
        two, three = replica("two"), replica("three")
        revision = lived.header.revision
        for each in (two, three):  # one that lived through half of it, and one that is built now
            assert await asyncio.to_thread(digest_at, each.target, revision) == lived.feed_digest
            assert await poll(each.target) == "FORGOTTEN"
        for name in ("one", "two", "three", "g"):
            folder = tmp_path / name
            await asyncio.to_thread(wait_until, lambda folder=folder: containing(folder) == [])
        for each in (one, two, three):
            await asyncio.to_thread(wait_until_deleted, each.target)
        server.stop(signal.SIGTERM)
        assert containing(tmp_path / "nats") == []

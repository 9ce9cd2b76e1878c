"""`desk gateway` with a spool, before a real nats-server that is stopped, frozen and killed."""

import http.client
import json
import random
import resource
import signal
import threading
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.journals import read_all
from tests.support.loopback import reserved_port
from tests.support.nats import MIB, NatsServer, nats_server
from tests.support.processes import DEADLINE, SDK_APP_ID, RunningDesk, start, wait_until
from tests.support.scrape import Page, scrape
from tests.support.waiting import eventually

pytestmark = pytest.mark.tools

QUERY = urlencode({"SdkAppid": SDK_APP_ID, "CallbackCommand": "Desk.SessionEventNotify"})
FIRST = 1_725_540_020_000


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def port() -> Iterator[int]:
    with reserved_port() as reserved:
        yield reserved


@pytest.fixture
def settings(own_nats: NatsServer) -> dict[str, str]:
    return {"DESK_JOURNAL": own_nats.url, "DESK_NATS_MAX_BYTES": str(64 * MIB)}


def event(session: str, number: int, size: int = 0) -> bytes:
    fields: dict[str, Any] = {
        "CallbackCommand": "Desk.SessionEventNotify",
        "SessionId": session,
        "Event": "SessionBegin",
        "EventTime": FIRST + number,
        "Padding": "x" * size,
    }
    return json.dumps(fields).encode()


def ask(desk: RunningDesk, method: str, path: str, content: bytes = b"") -> tuple[int, Any, str]:
    """Return status, headers and body of an answer."""
    with closing(http.client.HTTPConnection(*desk.http, timeout=DEADLINE)) as connection:
        connection.request(method, path, content or None)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()


def post(desk: RunningDesk, number: int, size: int = 0) -> tuple[int, bool]:
    """Send one of four callbacks of a session; return the status, and if there is a revision."""
    content = event(f"session-{number // 4}", number, size)
    status, headers, _ = ask(desk, "POST", f"/?{QUERY}", content)
    assert status != 200 or headers["Desk-Journal-Id"]
    return status, "Desk-Revision" in headers


def deliver(desk: RunningDesk, number: int, size: int = 0, *, journal: bool) -> None:
    """Send a callback until it is in the journal, or in the spool.

    On a busy machine an answer may be late: then the spool takes what is for the journal, or the
    gateway answers 503, and Desk sends it again.
    """
    wait_until(lambda: post(desk, number, size) == (200, journal))


def readiness(desk: RunningDesk) -> tuple[int, str]:
    status, _, text = ask(desk, "GET", "/readyz")
    return status, text


def stored(nats: NatsServer) -> list[int]:
    """Return the numbers of the callbacks in the journal, one session after the other."""
    with closing(nats.writer("desk")) as journal:
        bodies = [json.loads(entry.body) for entry in read_all(journal)]
    numbers = [each["EventTime"] - FIRST for each in bodies]
    return sorted(numbers, key=lambda number: number // 4)  # which keeps the order in a session


def shown(desk: RunningDesk, entries: int) -> Page | None:
    """Return the page of metrics if so many entries are in the spool by it."""
    page = scrape(desk.ready()["metrics"])
    return page if page.value("desk_spool_entries") == entries else None


def wait_until_forwarded(desk: RunningDesk) -> None:
    wait_until(
        lambda: readiness(desk) == (200, '{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}')
    )


def test_callbacks_are_kept_while_nats_is_killed_and_the_gateway_as_well(
    own_nats: NatsServer, settings: dict[str, str], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    settings["DESK_METRICS_LISTEN"] = "127.0.0.1:0"
    with start("gateway", data_dir=data, **settings) as gateway:
        deliver(gateway, 0, journal=True)
        own_nats.stop(signal.SIGKILL)
        for number in range(1, 10):
            deliver(gateway, number, journal=False)
        status, line = readiness(gateway)
        assert status == 200
        assert "spooling, 9 callbacks wait: NATS at nats://127.0.0.1" in line
        page = eventually(lambda: shown(gateway, 9))
        assert page.value("desk_spool_oldest_seconds") < 600
        gateway.kill()
    with start("gateway", data_dir=data, **settings) as gateway:  # while NATS is away
        deliver(gateway, 10, journal=False)
        own_nats.start()
        wait_until_forwarded(gateway)
        deliver(gateway, 11, journal=True)
        for event in ("spooling_begun", "spooling_ended"):
            gateway.wait_for(lambda record, event=event: record["event"] == event)
        assert gateway.terminate() == 0
    assert stored(own_nats) == list(range(12))


def test_a_frozen_nats_delays_no_answer_beyond_the_budget(
    own_nats: NatsServer, settings: dict[str, str], tmp_path: Path
) -> None:
    with start("gateway", data_dir=tmp_path / "data", **settings) as gateway:
        deliver(gateway, 0, journal=True)

        def five_are_kept(first: int) -> bool:
            numbers = range(first, first + 5)
            own_nats.freeze()
            answers = [post(gateway, number) for number in numbers]
            own_nats.thaw()
            wait_until_forwarded(gateway)
            for number in numbers:
                deliver(gateway, number, journal=True)
            return answers == [(200, False)] * 5

        # On a busy machine the spool itself may be too late.
        rounds = next(count for count in range(1, 6) if five_are_kept(5 * count - 4))
    assert stored(own_nats) == list(range(5 * rounds + 1))


def test_a_first_start_waits_for_nats(
    own_nats: NatsServer, settings: dict[str, str], tmp_path: Path
) -> None:
    own_nats.stop()
    with start("gateway", data_dir=tmp_path / "data", **settings) as gateway:
        gateway.wait_for(lambda record: record["event"] == "waiting_for_journal")
        own_nats.start()
        deliver(gateway, 0, journal=True)


def test_a_full_disk_refuses_only_while_nats_is_away(
    own_nats: NatsServer, settings: dict[str, str], tmp_path: Path
) -> None:
    with start("gateway", data_dir=tmp_path / "data", **settings) as gateway:
        deliver(gateway, 0, journal=True)
        for pid in gateway.children():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
        deliver(gateway, 1, journal=True)
        own_nats.stop()
        taken, missed = 2, 0
        while missed < 5:  # again and again: on a busy machine one alone may just be late
            if post(gateway, taken, 20_000) == (200, False):
                taken += 1
                missed = 0
            else:
                missed += 1
            assert taken < 100
        wait_until(lambda: readiness(gateway)[0] == 503)
        own_nats.start()
        wait_until_forwarded(gateway)
        deliver(gateway, taken, 20_000, journal=True)
    assert stored(own_nats) == list(range(taken + 1))


def test_nats_that_takes_only_small_messages_does_not_stop_the_others(
    own_nats: NatsServer, settings: dict[str, str], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with start("gateway", data_dir=data, **settings) as gateway:
        deliver(gateway, 0, journal=True)
        own_nats.stop()
        deliver(gateway, 1, journal=False)
        deliver(gateway, 2, 100_000, journal=False)
        deliver(gateway, 3, journal=False)
        own_nats.configure("max_payload: 64KB")
        own_nats.start()
        wait_until_forwarded(gateway)
        assert post(gateway, 4, 100_000)[0] == 503
        deliver(gateway, 5, journal=True)
    assert len(stored(own_nats)) == 4
    assert (data / "spool" / "refused.db").exists()


class Session(threading.Thread):
    """Sends the callbacks of one session, each until it is acknowledged, then the next.

    Attributes:
        acknowledged: their number.
    """

    def __init__(self, port: int, number: int) -> None:
        super().__init__(daemon=True)
        self.acknowledged = 0
        self._url = f"http://127.0.0.1:{port}/?{QUERY}"
        self._name = f"session-{number}"
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            content = event(self._name, self.acknowledged)
            with suppress(OSError, http.client.HTTPException):
                urllib.request.urlopen(self._url, content, timeout=DEADLINE).close()
                self.acknowledged += 1
                continue
            self._ended.wait(0.05)

    def stop(self) -> int:
        self._ended.set()
        self.join(DEADLINE)
        return self.acknowledged


def make_progress(sessions: list[Session]) -> None:
    """Wait until each session has had some more answers."""
    before = [each.acknowledged for each in sessions]
    wait_until(
        lambda: all(each.acknowledged > old + 5 for each, old in zip(sessions, before, strict=True))
    )


def kept(nats: NatsServer) -> dict[str, list[int]]:
    """Return the numbers of the callbacks of each session, in the order of the journal."""
    found = defaultdict(list)
    with closing(nats.writer("desk")) as journal:
        for entry in read_all(journal):
            fields = json.loads(entry.body)
            found[fields["SessionId"]].append(fields["EventTime"] - FIRST)
    return found


@pytest.mark.parametrize("seed", range(2))
def test_no_acknowledged_callback_is_lost_or_reordered_by_any_kill(
    own_nats: NatsServer, settings: dict[str, str], tmp_path: Path, seed: int, port: int
) -> None:
    chance = random.Random(seed)
    settings["DESK_HTTP_LISTEN"] = f"127.0.0.1:{port}"
    sessions = [Session(port, number) for number in range(8)]
    with ExitStack() as stack:

        def start_gateway() -> RunningDesk:
            gateway = start("gateway", data_dir=tmp_path / "data", **settings)
            return stack.enter_context(gateway)

        gateway = start_gateway()
        gateway.ready()
        for session in sessions:
            session.start()
        for _ in range(3):
            make_progress(sessions)
            own_nats.stop(signal.SIGKILL)
            make_progress(sessions)
            if chance.random() < 0.5:  # while it spools
                gateway.kill()
                gateway = start_gateway()
                make_progress(sessions)
            own_nats.start()
            threading.Event().wait(chance.random())
            if chance.random() < 0.7:  # perhaps while it forwards
                gateway.kill()
                gateway = start_gateway()
        make_progress(sessions)
        acknowledged = {f"session-{n}": each.stop() for n, each in enumerate(sessions)}
        wait_until_forwarded(gateway)
        assert gateway.terminate() == 0
    found = kept(own_nats)
    for name, number in acknowledged.items():
        assert found[name][:number] == list(range(number))
        assert len(found[name]) <= number + 1  # one may have had no answer


def test_a_large_spool_is_in_segments_and_gives_its_space_back(
    own_nats: NatsServer, settings: dict[str, str], tmp_path: Path
) -> None:
    settings["DESK_NATS_MAX_BYTES"] = str(256 * MIB)
    spool = tmp_path / "data" / "spool"
    with start("gateway", data_dir=tmp_path / "data", **settings) as gateway:
        deliver(gateway, 0, journal=True)
        own_nats.stop()
        number = 0
        while not (spool / "2.db").exists():
            number += 1
            deliver(gateway, number, 200_000, journal=False)
            assert number < 2000
        assert (spool / "1.db").stat().st_size > 50 * MIB
        own_nats.start()
        wait_until_forwarded(gateway)
        eventually(lambda: not list(spool.glob("1.db")))
    assert stored(own_nats) == list(range(number + 1))

"""An open loop of callbacks: sent by the clock, whether or not those before were answered.

`python -m benchmarks.driver PORT RATE SECONDS` is a process of its own and prints one line of JSON.
Latency counts from the schedule, so a server that falls behind cannot hide it by slowing the
sender down. Raw HTTP/1.1 over kept-alive connections, because a client library would cost more
than the server. Knows only the gateway's port.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from selectors import SelectSelector
from typing import Any

from benchmarks.measurement import percentile
from benchmarks.work import ROOT, START_WITHIN

CONNECTIONS = 64
"""So many requests may be under way at once. If all are, the next one waits, and its latency
counts the wait."""

PATIENCE = 10.0
"""Seconds for the last answers to come."""

PATH = (
    "/?SdkAppid=1600012345&CallbackCommand=Desk.SessionEventNotify&contenttype=json"
    "&ClientIP=127.0.0.1&OptPlatform=RESTAPI&RequestID="
)
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


def request(run: str, number: int, sent_ns: int) -> bytes:
    """One callback's bytes; its RequestID says when it was sent. Ten make a session."""
    session, place = divmod(number, 10)
    event = "ChatBot.UserSendMsg" if place else "SessionBegin"
    body = (
        '{"CallbackCommand":"Desk.SessionEventNotify",'
        f'"SessionId":"{run}-{session}","Event":"{event}",'
        f'"EventTime":{1725540000000 + number * 10},'
        f'"ChannelType":"SDK","ClientUserId":"user_{session}",'
        '"CustomerServiceId":"@customer_service_account","AgentId":"default-agent",'
        f'"MsgKey":"{number}","MsgBody":[{{"MsgType":"TIMTextElem","MsgContent":'
        '{"Text":"How to request a refund?"}}],"CloudCustomData":"","IsContactUser":false,'
        '"SatisfactionSelected":5}'
    )
    head = f"POST {PATH}{sent_ns} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


class Connection(asyncio.Protocol):
    """A connection with at most one request under way."""

    def __init__(self, driver: "Driver") -> None:
        self._driver = driver
        self._received = b""
        self._due = self._sent = 0.0
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._driver.free.append(self)

    def send(self, number: int, due: float) -> None:
        self._due, self._sent = due, time.monotonic()
        self._transport.write(request(self._driver.run_id, number, time.monotonic_ns()))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, ended, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not ended or (length and len(body) < int(length[1])):
            return
        self._received = b""
        self._driver.answered(self, head[9:12].decode(), self._due, self._sent)

    def connection_lost(self, error: Exception | None) -> None:
        self._driver.lost()


class Driver:
    """Sends by the clock and collects what came of it."""

    def __init__(self) -> None:
        self.run_id = os.urandom(6).hex()
        self.free: deque[Connection] = deque()
        self._lost = self._left = 0
        self._over = asyncio.Event()
        self._due: deque[tuple[int, float]] = deque()
        self._statuses: Counter[str] = Counter()
        self._from_due: list[float] = []
        self._from_sent: list[float] = []
        self._late: list[float] = []

    async def run(self, port: int, rate: float, seconds: float) -> dict[str, Any]:
        """Send `rate` callbacks a second for `seconds`, wait for the answers, and report."""
        loop = asyncio.get_running_loop()
        for _ in range(CONNECTIONS):
            await loop.create_connection(lambda: Connection(self), "127.0.0.1", port)
        began = time.monotonic()
        self._left = total = int(rate * seconds)
        for number in range(total):
            due = began + number / rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            elif number % 16 == 0:  # behind the clock: answers must be read nevertheless
                await asyncio.sleep(0)
            self._late.append(time.monotonic() - due)
            self._due.append((number, due))
            self._send()
        took = time.monotonic() - began
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), PATIENCE)
        return self._report(rate, total, took)

    def answered(self, connection: Connection, status: str, due: float, sent: float) -> None:
        now = time.monotonic()
        self._statuses[status] += 1
        self._from_due.append(now - due)
        self._from_sent.append(now - sent)
        self._count_down()
        self.free.append(connection)
        self._send()

    def lost(self) -> None:
        """A connection ended, perhaps with a request under way: nobody will answer that."""
        self._lost += 1
        self._count_down()

    def _count_down(self) -> None:
        self._left -= 1
        if self._left <= 0:
            self._over.set()

    def _send(self) -> None:
        while self._due and self.free:
            self.free.popleft().send(*self._due.popleft())

    def _report(self, rate: float, total: int, took: float) -> dict[str, Any]:
        return {
            "rate": rate,
            "sent_rate": total / took,
            "total": total,
            "answered": len(self._from_due),
            "refused": sum(n for status, n in self._statuses.items() if status != "200"),
            "lost": self._lost,
            "p50_ms": percentile(self._from_due, 50) * 1000,
            "p99_ms": percentile(self._from_due, 99) * 1000,
            "from_sent_p50_ms": percentile(self._from_sent, 50) * 1000,
            "from_sent_p99_ms": percentile(self._from_sent, 99) * 1000,
            "driver_late_p99_ms": percentile(self._late, 99) * 1000,
        }


def drive(port: int, rate: float, seconds: float) -> dict[str, Any]:
    """Run the driver in a process of its own; return its report."""
    command = [sys.executable, "-m", "benchmarks.driver", str(port), str(rate), str(seconds)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=seconds + PATIENCE + START_WITHIN,
        check=True,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def main() -> None:
    """Be that process."""
    port, rate, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    # select(2) waits for microseconds, epoll only for whole milliseconds.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(SelectSelector())) as runner:
        print(json.dumps(runner.run(Driver().run(port, rate, seconds))), flush=True)


if __name__ == "__main__":
    main()

"""An open loop of callbacks: sent on schedule, whether or not earlier ones were answered.

`python -m benchmarks.driver PORT RATE SECONDS` is a process of its own and prints one line of JSON.
Latency counts from the schedule, so that a slow server cannot improve it by slowing the sender
down. A callback without an answer at the end counts with its waiting time. Raw HTTP/1.1 over
keep-alive connections and select(2), because a client library would cost more than the server.
"""

import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from typing import Any

from benchmarks.measurement import percentile
from benchmarks.work import ROOT, START_WITHIN

CONNECTIONS = 64
"""Requests in flight at once, at most. The latency of the next one includes its wait."""

PATIENCE = 10.0
"""Seconds after the end of the schedule until a callback counts as unanswered."""

PATH = (
    "/?SdkAppid=1600012345&CallbackCommand=Desk.SessionEventNotify&contenttype=json"
    "&ClientIP=127.0.0.1&OptPlatform=RESTAPI&RequestID="
)
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


def request(run: str, number: int, sent_ns: int) -> bytes:
    """Return the bytes of a callback. Its RequestID is the send time; ten make a session."""
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


class Connection:
    """A connection with at most one request in flight."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = self.sent = 0.0
        self._received = b""

    def fileno(self) -> int:
        """Return the descriptor, for select(2)."""
        return self.socket.fileno()

    def send(self, run: str, number: int, due: float) -> None:
        """Send a callback, which fits into the socket's buffer."""
        self.due, self.sent = due, time.monotonic()
        self.socket.sendall(request(run, number, time.monotonic_ns()))

    def receive(self) -> str | None:
        """Read the available bytes. Return the status of the answer; None if it is not complete.

        Raises:
            OSError: the connection was closed.
        """
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionResetError("closed by the server")
        self._received += data
        head, ended, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not ended or (length and len(body) < int(length[1])):
            return None
        self._received = b""
        return head[9:12].decode()


class Driver:
    """Sends on schedule and collects the answers.

    Without asyncio, whose cost for each callback would be taken from the servers' cores and be part
    of the latencies.
    """

    def __init__(self, port: int, rate: float, seconds: float) -> None:
        self._run_id = os.urandom(6).hex()
        self._rate = rate
        self._total = int(rate * seconds)
        self._free = deque(Connection(port) for _ in range(CONNECTIONS))
        self._busy: set[Connection] = set()
        self._due: deque[tuple[int, float]] = deque()
        self._lost: list[float] = []  # their due times
        self._statuses: Counter[str] = Counter()
        self._from_due: list[float] = []
        self._from_sent: list[float] = []
        self._late: list[float] = []

    def run(self) -> dict[str, Any]:
        """Send all callbacks, wait for the answers, and return the report."""
        began = now = time.monotonic()
        give_up = began + self._total / self._rate + PATIENCE
        number = 0
        while (number < self._total or self._due or self._busy) and now < give_up:
            if not (self._free or self._busy):
                break  # all connections are lost
            while number < self._total and (due := began + number / self._rate) <= now:
                self._late.append(now - due)
                self._due.append((number, due))
                number += 1
            while self._due and self._free:
                self._send(*self._due.popleft())
            following = began + number / self._rate if number < self._total else give_up
            self._receive(max(0.0, following - time.monotonic()))
            now = time.monotonic()
        return self._report(now)

    def _send(self, number: int, due: float) -> None:
        connection = self._free.popleft()
        try:
            connection.send(self._run_id, number, due)
        except OSError:
            self._lost.append(due)
        else:
            self._busy.add(connection)

    def _receive(self, timeout: float) -> None:
        """Process the available answers, or wait for one."""
        for connection in select.select(self._busy, (), (), timeout)[0]:
            try:
                status = connection.receive()
            except OSError:  # the requests in flight will not be answered
                self._busy.remove(connection)
                self._lost.append(connection.due)
            else:
                if status:
                    self._busy.remove(connection)
                    self._free.append(connection)
                    self._answered(connection, status)

    def _answered(self, connection: Connection, status: str) -> None:
        now = time.monotonic()
        self._statuses[status] += 1
        self._from_due.append(now - connection.due)
        self._from_sent.append(now - connection.sent)

    def _report(self, ended: float) -> dict[str, Any]:
        if not self._from_due:
            sys.exit("nothing was answered")
        waiting = [*(each.due for each in self._busy), *(due for _, due in self._due)]
        latencies = [*self._from_due, *(ended - due for due in (*waiting, *self._lost))]
        return {
            "rate": self._rate,
            "total": self._total,
            "answered": len(self._from_due),
            "refused": sum(n for status, n in self._statuses.items() if status != "200"),
            "lost": len(self._lost),
            "p50_ms": percentile(latencies, 50) * 1000,
            "p99_ms": percentile(latencies, 99) * 1000,
            "from_sent_p50_ms": percentile(self._from_sent, 50) * 1000,
            "from_sent_p99_ms": percentile(self._from_sent, 99) * 1000,
            "driver_late_p99_ms": percentile(self._late, 99) * 1000,
        }


def drive(port: int, rate: float, seconds: float) -> dict[str, Any]:
    """Run the driver in a process of its own. Return its report."""
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
    """Run as that process."""
    port, rate, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    print(json.dumps(Driver(port, rate, seconds).run()), flush=True)


if __name__ == "__main__":
    main()

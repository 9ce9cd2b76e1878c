"""A real gateway on a loopback port, the ways to talk to it, and journals that misbehave."""

import hashlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from callback.decoder import COMMAND
from gateway.app import create_app
from gateway.authentication import Authenticator
from gateway.limits import Limits
from gateway.waitress_server import GreenletEvent, Server
from journal.entry import Appended, Entry, NewEntry
from journal.group_commit import LIMITS, CommitLimits, GroupCommit
from journal.memory import MemoryJournal
from journal.port import Journal, Waiter
from tests.support.callbacks import APP, NOON
from tests.support.callbacks import body as callback_body
from tests.support.waiting import PATIENCE

OK = b'{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}'
CALLBACK = callback_body("SessionBegin", NOON)


UNHURRIED = 60.0
"""Seconds of any limit that a test is not about: a busy machine takes longer than ours."""

PATIENT = Limits(receive=UNHURRIED, unread=UNHURRIED, grace=UNHURRIED, drain=UNHURRIED)
"""Limits of a gateway in a test that is not about them."""


def numbered(number: int) -> bytes:
    """A callback of which each number makes another."""
    return callback_body("SessionBegin", NOON + number)


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def fields(self) -> dict[str, Any]:
        return json.loads(self.body)

    def assert_fail(self, status: int) -> "Answer":
        """It has this status, and the vendor's shape of a failure."""
        assert self.status == status, (self.status, self.body)
        assert self.headers["content-type"] == "application/json"
        assert list(self.fields) == ["ActionStatus", "ErrorInfo", "ErrorCode"]
        assert self.fields["ActionStatus"] == "FAIL"
        assert isinstance(self.fields["ErrorCode"], int)
        assert self.fields["ErrorCode"] != 0
        assert self.fields["ErrorInfo"]
        return self

    def assert_ok(self) -> "Answer":
        assert (self.status, self.body) == (200, OK)
        assert self.headers["content-type"] == "application/json"
        return self


def query(**parameters: Any) -> str:
    """The query that Desk appends; None leaves a parameter out, a list repeats it."""
    desk: dict[str, Any] = {
        "SdkAppid": APP,
        "CallbackCommand": COMMAND,
        "contenttype": "json",
        "ClientIP": "127.0.0.1",
        "OptPlatform": "RESTAPI",
    }
    given = {name: value for name, value in (desk | parameters).items() if value is not None}
    return urlencode(given, doseq=True)


@dataclass
class Gateway:
    """The address that it listens on, and the entries that it keeps."""

    port: int
    journal: Journal
    server: Any = None
    thread: threading.Thread | None = None
    sockets: list[socket.socket] = field(default_factory=list)

    def post(
        self, body: bytes = CALLBACK, *, path: str = "/", headers: Any = (), **parameters: Any
    ) -> Answer:
        """One callback, on a connection of its own."""
        return self.ask("POST", f"{path}?{query(**parameters)}", body, dict(headers))

    def ask(
        self, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, target, body, dict(headers or {}))
            return read_answer(connection.getresponse())
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        """A raw connection; closed when the gateway is."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        self.sockets.append(sock)
        return sock

    def raw(self, *packets: bytes) -> list[Answer]:
        """All answers to these bytes, until the gateway closes the connection."""
        sock = self.connect()
        for packet in packets:
            sock.sendall(packet)
        return answers_until_close(sock)

    def kept(self) -> list[Entry]:
        return self.journal.read(0, limit=10_000)

    def stands_still(self) -> bool:
        """Callbacks were kept, and a moment later no more."""
        before = len(self.kept())
        time.sleep(0.1)
        return 0 < before == len(self.kept())

    def bodies(self) -> list[bytes]:
        return [entry.body for entry in self.kept()]


@contextmanager
def gateway(
    journal: Journal | None = None,
    *,
    sdk_app_ids: frozenset[int] = frozenset({APP}),
    tokens: Mapping[int, tuple[str, ...]] | None = None,
    path: str = "/",
    now: float | None = None,
    send_buffer: int | None = None,
    limits: Limits = PATIENT,
    budget: float = UNHURRIED,
    event: Callable[[], Waiter] = GreenletEvent,
) -> Iterator[Gateway]:
    """A gateway on waitress, in a thread; `now` stops its clock."""
    journal = journal or MemoryJournal()
    authenticator = Authenticator(sdk_app_ids, tokens or {})
    clock = {} if now is None else {"clock": lambda: now}
    sock = socket.create_server(("127.0.0.1", 0))
    if send_buffer is not None:  # connections inherit it
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    port = sock.getsockname()[1]
    app = create_app(journal, authenticator, path=path, event=event, budget=budget, **clock)
    server = Server(app, sock, limits)
    thread = threading.Thread(target=server.run)
    thread.start()
    running = Gateway(port, journal, server, thread)
    try:
        yield running
    finally:
        for each in running.sockets:
            each.close()
        server.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def request(body: bytes = CALLBACK, *, headers: str = "", **parameters: Any) -> bytes:
    """A whole request as bytes."""
    head = f"POST /?{query(**parameters)} HTTP/1.1\r\nHost: gateway\r\n{headers}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def read_answer(response: http.client.HTTPResponse) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


def next_answer(sock: socket.socket) -> Answer:
    """The next answer on a connection on which nothing was pipelined."""
    response = http.client.HTTPResponse(sock, method="POST")
    response.begin()
    return read_answer(response)


def answers_until_close(sock: socket.socket) -> list[Answer]:
    rest = b""
    while packet := sock.recv(65536):
        rest += packet
    answers = []
    while rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers.get("content-length", 0))
        answers.append(Answer(int(status.split()[1]), headers, rest[:length]))
        rest = rest[length:]
    return answers


class StallingJournal(MemoryJournal):
    """A memory journal behind a real group commit, whose disk hangs until it is released.

    Attributes:
        committing: set when the first commit hangs.
        stalled: appends that wait.
        appended: appends so far.
    """

    def __init__(self, limits: CommitLimits = LIMITS) -> None:
        super().__init__()
        self.released = threading.Event()
        self.committing = threading.Event()
        self.stalled = 0
        self.appended = 0
        self._count = threading.Lock()
        self._group = GroupCommit(self._commit, afterwards=lambda: None, limits=limits)

    def append(self, entry: NewEntry, **options: Any) -> Appended:
        self._add(1)
        try:
            return self._group.append(entry, **options)
        finally:
            self._add(-1)

    def trouble(self) -> str:
        return self._group.trouble()

    def close(self) -> None:
        self.released.set()
        assert self._group.close(timeout=PATIENCE)
        super().close()

    def _add(self, number: int) -> None:
        with self._count:
            self.stalled += number
            self.appended += max(0, number)

    def _commit(self, entries: Sequence[NewEntry]) -> list[Appended]:
        self.committing.set()
        self.released.wait()
        return [MemoryJournal.append(self, entry, timeout=0) for entry in entries]


class FailingJournal(MemoryJournal):
    """A memory journal that raises what it is told to, as long as it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error

    def append(self, entry: NewEntry, **options: Any) -> Appended:
        if self.error is not None:
            raise self.error
        return super().append(entry, **options)

    def trouble(self) -> str:
        return "the last commit failed" if self.error else ""


def sign(token: str, request_time: int | str) -> str:
    return hashlib.sha256(f"{token}{request_time}".encode()).hexdigest()

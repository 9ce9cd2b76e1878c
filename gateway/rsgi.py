"""The app as an RSGI one: bodies are bounded, and answers held back until they are true.

RSGI is Granian's protocol between the server and Python: a coroutine for each request. Must not
know sockets of a server; of routes it knows that of callbacks, which spares them WSGI.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from io import BytesIO
from math import inf
from time import monotonic
from typing import Any, NamedTuple, cast

from gateway import server
from gateway.acknowledgements import ACKNOWLEDGEMENTS, BODIES, CONTENT_TYPE, Outcome
from gateway.app import CONDITION, App, log_unexpected
from gateway.callbacks import MAX_BODY, Callbacks, Rejected
from gateway.channel import DISCARD

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]

_ENVIRON = {
    "SCRIPT_NAME": "",
    "SERVER_NAME": "gateway",
    "SERVER_PORT": "0",
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.errors": sys.stderr,
    "wsgi.multithread": True,
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
}


class Answer(NamedTuple):
    """An HTTP answer, as RSGI takes it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @classmethod
    def of(cls, outcome: Outcome, detail: str = "") -> "Answer":
        """Answer with an outcome of our table."""
        answer = ACKNOWLEDGEMENTS[outcome]
        body = answer.body(detail) if detail else BODIES[outcome]
        headers = [("content-type", CONTENT_TYPE), ("content-length", str(len(body)))]
        if answer.retry_after is not None:
            headers.append(("retry-after", str(answer.retry_after)))
        return cls(int(answer.status), headers, body)


ANSWERS = {outcome: Answer.of(outcome) for outcome in Outcome}
"""Those without details, made once."""


class Refused(Rejected):
    """The request could not be received: where the next one begins is not known."""


class Application:
    """Receives requests, has the app answer them, and knows how much there is to do.

    Callbacks are served by the event loop itself, all else by threads: as `gateway.server` does.

    Callbacks do not pass through WSGI: making its environ and reading it costs more than all that
    is done for them.

    Args:
        app: see `gateway.granian.Server`.
        loop: the event loop.

    Attributes:
        draining: each answer is the last one on its connection.
    """

    def __init__(self, app: App, loop: asyncio.AbstractEventLoop) -> None:
        self.draining = False
        self._app = app
        self._loop = loop
        self._threads = server.Threads(server.THREADS)
        self._receiving = _Deadlines(loop)
        self._held = _Deadlines(loop)
        self._true: deque[asyncio.Future[None]] = deque()
        self._told = False

    async def __call__(self, scope: Any, protocol: Any) -> None:
        """Answer one request."""
        last = False
        try:
            body = await self._receive(scope.headers, protocol)
            callbacks = self._app.callbacks
            if callbacks and callbacks.serves(scope.method, scope.path):
                answer = await self._take(callbacks, scope, body)
            else:
                answer = await self._ask(scope, body)
        except Rejected as rejected:
            answer, last = ANSWERS[rejected.outcome], isinstance(rejected, Refused)
        except Exception as error:  # else it would be logged as it is, and answered by Granian
            log_unexpected(error)
            answer = ANSWERS[Outcome.FAILED]
        if last or self.draining:
            answer = answer._replace(headers=[*answer.headers, ("connection", "close")])
        protocol.response_bytes(*answer)

    def stop_receiving(self) -> None:
        """Give up bodies that have not arrived."""
        self._receiving.cancel_due(inf)

    async def _receive(self, headers: Any, protocol: Any) -> bytes:
        if "content-length" not in headers and "transfer-encoding" not in headers:
            return b""
        task = cast(asyncio.Task[None], asyncio.current_task())
        self._receiving.add(task, monotonic() + server.RECEIVE)
        try:
            return await _body(headers, protocol)
        except asyncio.CancelledError:
            task.uncancel()
            raise Refused(Outcome.UNAVAILABLE) from None
        except RuntimeError:  # Granian's for a client that left: nobody will read the answer
            raise Refused(Outcome.BAD_REQUEST) from None
        finally:
            self._receiving.remove(task)

    async def _take(self, callbacks: Callbacks, scope: Any, body: bytes) -> Answer:
        """Answer a callback once it is kept."""
        arrived = monotonic()
        if self._is_overloaded():
            raise Rejected(Outcome.OVERLOADED)
        encoding = ",".join(scope.headers.get_all("content-encoding"))
        entry, fault = callbacks.accept(scope.query_string, encoding, body)
        deadline = callbacks.deadline(entry, arrived)
        released = self._loop.create_future()
        append = callbacks.submit(entry, lambda _append: self._tell(released))
        self._held.add(released, deadline)
        with suppress(asyncio.CancelledError):
            await released
        self._held.remove(released)
        if outcome := callbacks.judge(append):
            return ANSWERS[outcome]
        return Answer.of(Outcome.MALFORMED, fault) if fault else ANSWERS[Outcome.KEPT]

    async def _ask(self, scope: Any, body: bytes) -> Answer:
        """Have a thread ask the app."""
        environ = _environ(scope, body)
        environ[CONDITION] = self._condition()
        answered: Future[Answer] = Future()

        def call() -> None:
            try:
                answered.set_result(_call(self._app, environ))
            except Exception as error:
                answered.set_exception(error)

        self._threads.call(call)
        return await asyncio.wrap_future(answered)

    def _tell(self, released: asyncio.Future[None]) -> None:
        """Have an answer sent. For the thread that commits: of a batch, one call wakes the loop."""
        self._true.append(released)
        if not self._told:
            self._told = True
            self._loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        self._told = False  # from now on; who appends later must tell
        while self._true:
            released = self._true.popleft()
            if not released.done():
                released.set_result(None)

    def _is_overloaded(self) -> bool:
        return len(self._held) >= server.MAX_WAITING

    def _condition(self) -> str:
        """Why there should be no more traffic; "" if there may."""
        if self.draining:
            return "stopping"
        return "overloaded" if self._is_overloaded() else ""


class _Deadlines:
    """Futures that are cancelled when they take too long.

    It looks now and then, as long as there are any: a timer for each would cost more.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._deadlines: dict[asyncio.Future[Any], float] = {}
        self._looking = False

    def __len__(self) -> int:
        return len(self._deadlines)

    def add(self, future: asyncio.Future[Any], deadline: float) -> None:
        """Give a future until `deadline`, `time.monotonic`."""
        self._deadlines[future] = deadline
        if not self._looking:
            self._looking = True
            self._loop.call_later(server.TICK, self._look)

    def remove(self, future: asyncio.Future[Any]) -> None:
        """It has not taken too long."""
        del self._deadlines[future]

    def cancel_due(self, now: float) -> None:
        """Cancel what should be done by `now`."""
        for future in [each for each, deadline in self._deadlines.items() if deadline <= now]:
            future.cancel()

    def _look(self) -> None:
        self.cancel_due(monotonic())
        self._looking = bool(self._deadlines)
        if self._looking:
            self._loop.call_later(server.TICK, self._look)


async def _body(headers: Any, protocol: Any) -> bytes:
    """Receive a body.

    Raises:
        Refused: it is too large, not complete, or its end is ambiguous: that is how requests are
            smuggled through a proxy that reads it differently (RFC 9112, 6.1).
        RuntimeError: the client left.
    """
    length = headers.get("content-length")
    if "transfer-encoding" not in headers:
        if int(length) > (MAX_BODY if "expect" in headers else DISCARD):
            raise Refused(Outcome.TOO_LARGE)
        body: bytes = await protocol()
        if len(body) > MAX_BODY:  # only now: who still sends might not get to read the answer
            raise Refused(Outcome.TOO_LARGE)
        return body
    if length is not None or headers.get_all("transfer-encoding") != ["chunked"]:
        raise Refused(Outcome.BAD_REQUEST)
    return await _chunked_body(protocol)


async def _chunked_body(protocol: Any) -> bytes:
    received, size, empty = bytearray(), 0, 0
    async for chunk in protocol:
        size += len(chunk)
        empty += not chunk
        if size <= MAX_BODY:
            received += chunk
        elif size > DISCARD:
            break
    if size > MAX_BODY:
        raise Refused(Outcome.TOO_LARGE)
    # At the end comes an empty chunk. One before it stands for a connection that broke.
    if empty > 1:
        raise Refused(Outcome.BAD_REQUEST)
    return bytes(received)


def _environ(scope: Any, body: bytes) -> dict[str, Any]:
    """The request as WSGI (PEP 3333) has it."""
    environ = {
        **_ENVIRON,
        "REQUEST_METHOD": scope.method,
        "PATH_INFO": scope.path.encode().decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "wsgi.input": BytesIO(body),
    }
    for name, value in scope.headers.items():
        variable = "HTTP_" + name.upper().replace("-", "_")
        environ[variable] = f"{environ[variable]},{value}" if variable in environ else value
    environ["CONTENT_TYPE"] = environ.pop("HTTP_CONTENT_TYPE", "")
    environ["CONTENT_LENGTH"] = str(len(body))
    return environ


def _call(app: Wsgi, environ: dict[str, Any]) -> Answer:
    """What the app answers."""
    started: list[tuple[str, list[tuple[str, str]]]] = []
    said = app(environ, lambda status, headers, _exc_info=None: started.append((status, headers)))
    body = b"".join(said)
    status, headers = started[-1]
    return Answer(int(status[:3]), headers, body)

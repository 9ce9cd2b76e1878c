"""A real worker over a real view: journal in memory, follower in a thread, gRPC on loopback."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from datetime import UTC
from pathlib import Path
from threading import Event, Thread
from typing import Any

import apsw
import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status

from desk.v1.admin_service_pb2_grpc import AdminServiceStub
from desk.v1.board_service_pb2_grpc import BoardServiceStub
from desk.v1.event_service_pb2 import SubscribeRequest, SubscribeResponse
from desk.v1.event_service_pb2_grpc import EventServiceStub
from desk.v1.report_service_pb2_grpc import ReportServiceStub
from desk.v1.session_service_pb2_grpc import SessionServiceStub
from desk.v1.status_pb2 import GetStatusRequest
from desk.v1.status_pb2_grpc import StatusServiceStub
from journal.entry import NewEntry, unnumbered
from journal.forgetting import forget_entry
from journal.memory import MemoryJournal
from service.follower import Follower
from service.rpc.limits import Limits
from service.rpc.live_board import Centre
from service.rpc.options import WorkerOptions
from service.rpc.server import serve
from service.view import store
from service.view.errors import ViewError
from service.view.reader import Reader
from tests.support.callbacks import APP, NOON, entry
from tests.support.waiting import PATIENCE, eventually

LIMITS = Limits(grace_seconds=30.0)
"""With time to say why a stream ends, on a busy machine too."""

CENTRE = Centre(UTC, now=lambda: NOON + 3_600_000)
"""A contact centre on the day of the callbacks."""


class World:
    """A journal and the view that follows it."""

    def __init__(self, folder: Path, journal: Any = None) -> None:
        self.journal = MemoryJournal() if journal is None else journal
        self.folder = folder
        self.view = store.locate(folder)
        self.backlog_waits_for: Event | None = None
        self._stop = Event()
        self._thread: Thread | None = None

    def append(self, *bodies: bytes | NewEntry, app: int = APP) -> int:
        """Add callbacks, or other entries; the revision of the last."""
        last = 0
        for each in bodies:
            if isinstance(each, bytes):
                each = unnumbered(entry(1, each, sdk_app_id=app))
            last = self.journal.append(each, timeout=PATIENCE).revision
        return last

    def forget(self, *session_ids: str, app: int = APP, **listed: Any) -> int:
        """Forget sessions; the revision of the entry."""
        return self.append(forget_entry(app, NOON, session_ids=session_ids, **listed))

    def backlog(self, after: int) -> tuple[int, int | None]:
        """Return the journal's head, and the time of the first entry after a revision."""
        if self.backlog_waits_for:
            self.backlog_waits_for.wait(PATIENCE)
        waiting = self.journal.read(after, limit=1)
        return self.journal.head(), waiting[0].received_at if waiting else None

    def follow(self, **options: Any) -> None:
        """Start the follower; `options` are its own."""
        follower = Follower(self.journal, self.folder, **options)
        self._stop = Event()
        self._thread = Thread(target=follower.run, args=(self._stop,))
        self._thread.start()

    def wait(self, revision: int = 0) -> None:
        """Wait until the view is complete and contains a revision, by default the newest."""
        wanted = revision or self.journal.head()

        def reached() -> bool:
            with suppress(ViewError), closing(Reader(self.view)) as reader:
                progress = reader.progress()
                return bool(progress.complete) and progress.applied_revision >= wanted
            return False

        eventually(reached)

    def edit(self, sql: str) -> None:
        """Stop the follower and change the view behind its back."""
        self.close()
        with closing(apsw.Connection(str(self.view))) as connection:
            connection.execute(sql)

    def replace(self) -> None:
        """Put another file in the view's place, as a follower does whose view is damaged."""
        copy = self.view.with_suffix(".new")
        with closing(apsw.Connection(str(self.view))) as connection:
            connection.execute(f"VACUUM INTO '{copy}'")
        for suffix in ("-wal", "-shm"):
            Path(f"{self.view}{suffix}").unlink(missing_ok=True)
        copy.replace(self.view)

    def stop_following(self) -> None:
        """Stop the follower; the journal goes on."""
        self._stop.set()
        if self._thread:
            self._thread.join()

    def close(self) -> None:
        self._stop.set()
        self.journal.close()  # wakes the follower
        if self._thread:
            self._thread.join()


@contextmanager
def world(bodies: Iterable[bytes | NewEntry] = (), *, follow: bool = True) -> Any:
    """A journal of these callbacks, followed."""
    with tempfile.TemporaryDirectory() as folder:
        made = World(Path(folder))
        made.append(*bodies)
        try:
            if follow:
                made.follow()
            yield made
        finally:
            made.close()


class Worker:
    """A serving worker and stubs to call it."""

    def __init__(
        self,
        port: int,
        stop: asyncio.Event,
        task: asyncio.Task[None],
        credentials: grpc.ChannelCredentials | None,
    ) -> None:
        self.port = port
        self._credentials = credentials
        self.stop = stop
        self.task = task
        self.channel = self.connect()

    @asynccontextmanager
    async def from_address(self, address: str) -> AsyncIterator[grpc.aio.Channel]:
        """A connection that comes from another address of this machine, such as 127.0.0.2."""

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection(
                "127.0.0.1", self.port, local_addr=(address, 0)
            )
            await asyncio.gather(_pump(reader, back), _pump(there, writer))

        async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield channel

    def connect(self, credentials: grpc.ChannelCredentials | None = None) -> grpc.aio.Channel:
        """A connection of its own."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        target, credentials = f"127.0.0.1:{self.port}", credentials or self._credentials
        if credentials:
            return grpc.aio.secure_channel(target, credentials, options=options)
        return grpc.aio.insecure_channel(target, options=options)

    @property
    def sessions(self) -> Any:
        return SessionServiceStub(self.channel)

    @property
    def events(self) -> Any:
        return EventServiceStub(self.channel)

    @property
    def admin(self) -> Any:
        return AdminServiceStub(self.channel)

    @property
    def status(self) -> Any:
        return StatusServiceStub(self.channel)

    @property
    def board(self) -> Any:
        return BoardServiceStub(self.channel)

    @property
    def report(self) -> Any:
        return ReportServiceStub(self.channel)

    def subscribe(self, channel: grpc.aio.Channel | None = None, **fields: Any) -> Any:
        stub: Any = EventServiceStub(channel or self.channel)
        return stub.Subscribe(SubscribeRequest(**fields))

    async def revision(self, at_least: int) -> None:
        """Wait until the worker's view contains a revision."""
        await until(lambda: self._contains(at_least))

    async def subscribers(self) -> int:
        status = await self.status.GetStatus(GetStatusRequest())
        return int(status.subscribers)

    async def _contains(self, revision: int) -> bool:
        status = await self.status.GetStatus(GetStatusRequest())
        return bool(status.header.revision >= revision)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


def serve_world(
    made: World,
    address: str,
    stop: asyncio.Event,
    on_ready: Callable[[int], None] = lambda _: None,
    **options: Any,
) -> Coroutine[Any, Any, None]:
    """Serve a world's view until `stop`; `options` are of `WorkerOptions`."""
    options = {"sdk_app_ids": (APP,), "centre": CENTRE, **options}
    made_options = WorkerOptions(journal_backlog=made.backlog, forget=made.append, **options)
    return serve(made.view, address, made_options, stop=stop, on_ready=on_ready)


@asynccontextmanager
async def worker(
    made: World,
    *,
    apps: tuple[int, ...] = (APP,),
    port: int = 0,
    limits: Limits = LIMITS,
    credentials: grpc.ChannelCredentials | None = None,
    **options: Any,
) -> AsyncIterator[Worker]:
    """Serve a world's view from this loop; `options` are of `WorkerOptions`."""
    stop = asyncio.Event()
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    options |= {"sdk_app_ids": apps, "limits": limits}
    serving = serve_world(made, f"127.0.0.1:{port}", stop, ready.set_result, **options)
    task = asyncio.create_task(serving)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_end, stop, task)
        await asyncio.wait({ready, task}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        made_worker = Worker(ready.result(), stop, task, credentials)
        stack.push_async_callback(made_worker.channel.close)
        yield made_worker


async def _end(stop: asyncio.Event, task: asyncio.Task[None]) -> None:
    stop.set()
    await asyncio.wait_for(task, PATIENCE)


@asynccontextmanager
async def service(*bodies: bytes | NewEntry, **options: Any) -> AsyncIterator[tuple[World, Worker]]:
    """A followed journal of these callbacks and a worker that has seen all of them."""
    with world(bodies) as made:
        made.wait()  # sooner than the worker's own look for a complete view
        async with worker(made, **options) as serving:
            await serving.revision(made.journal.head())
            yield made, serving


async def began(call: Any, worker: Worker) -> None:
    """Wait until a call has been taken up: gRPC keeps the order of calls on one connection."""
    assert not call.done()
    for _ in range(2):
        await worker.status.GetStatus(GetStatusRequest())


async def until(condition: Callable[[], Any], *, within: float = PATIENCE) -> Any:
    """Evaluate an async condition until it holds, and return it."""
    async with asyncio.timeout(within):
        while not (answer := await condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return answer


async def take(call: Any, *, until: str = "caught_up") -> list[SubscribeResponse]:
    """Read a stream up to and including a kind of message."""
    got: list[SubscribeResponse] = []
    async with asyncio.timeout(PATIENCE):
        while not got or got[-1].WhichOneof("content") != until:
            message = await call.read()
            if message is grpc.aio.EOF:
                await _raise(call)
            got.append(message)
    return got


async def _raise(call: Any) -> None:
    code, details = await call.code(), await call.details()
    raise AssertionError(f"the stream ended: {code} {details}")


def records(messages: Iterable[SubscribeResponse]) -> list[Any]:
    """All records of some messages."""
    return [record for message in messages for record in message.records.records]


def places(messages: Iterable[SubscribeResponse]) -> list[tuple[int, int]]:
    """(revision, ordinal) of all records of some messages."""
    return [(record.revision, record.ordinal) for record in records(messages)]


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    with suppress(asyncio.CancelledError):
        try:
            async with asyncio.timeout(PATIENCE):
                if hasattr(call, "read"):
                    while await call.read() is not grpc.aio.EOF:
                        pass
                    await call
                else:
                    await call
        except grpc.aio.AioRpcError as error:
            return error
    raise AssertionError("the call was not refused")


def reason(error: grpc.aio.AioRpcError) -> str:
    """`ErrorInfo.reason` of an error; its domain must be ours."""
    info = _detail(error, ErrorInfo)
    assert info.domain == "desk.v1"
    return str(info.reason)


def metadata(error: grpc.aio.AioRpcError) -> dict[str, str]:
    """`ErrorInfo.metadata` of an error."""
    return dict(_detail(error, ErrorInfo).metadata)


def fields(error: grpc.aio.AioRpcError) -> list[str]:
    """The fields at fault."""
    return [violation.field for violation in _detail(error, BadRequest).field_violations]


def _detail(error: grpc.aio.AioRpcError, kind: Any) -> Any:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None, error
    found = kind()
    for detail in status.details:
        if detail.Unpack(found):
            return found
    raise AssertionError(f"no {kind.__name__} in {status}")

"""The processes there are: what each runs, and in which order they stop.

An entry function runs in a spawned child and imports what it needs there, so that the gateway never
loads gRPC, nor the service waitress.
"""

import asyncio
import gc
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, TypeVar

import structlog

from command import logs
from command.address import Address
from command.settings import Settings
from command.signals import when_told_to_stop
from command.supervisor import Part, Report

if TYPE_CHECKING:
    from journal.backlog import Backlog
    from journal.port import JournalReader, JournalWriter

JOURNAL_FILE = "journal.db"

RETRY = 0.2
"""Seconds between two looks for a journal that is not there yet."""

ORDINARY_WAIT = 5.0
"""Seconds that such a wait may take when everything starts at once; a longer one is a warning."""

log = structlog.get_logger()

T = TypeVar("T")


def gateway_parts(settings: Settings, listener: socket.socket) -> list[Part]:
    """The gateway; it stops first, so that whatever was acknowledged is still served."""
    return [Part(name="gateway", run=gateway, arguments=(settings, listener), stage=0)]


def service_parts(settings: Settings, address: Address) -> list[Part]:
    """The follower and the rpc workers; streams end before the view stands still."""
    workers = [
        Part(name=name, run=rpc_worker, arguments=(settings, address, name), stage=1)
        for name in (f"rpc-{number}" for number in range(1, settings.rpc_workers + 1))
    ]
    return [Part(name="follower", run=follower, arguments=(settings,), stage=2), *workers]


def gateway(report: Report, settings: Settings, listener: socket.socket) -> None:
    """Run the gateway: take callbacks from `listener`, append them to the journal."""
    with _process(report, settings, "gateway"):
        from gateway.app import create_app
        from gateway.limits import Limits
        from gateway.options import Options
        from gateway.waitress_server import GreenletEvent, Server

        options = Options(
            sdk_app_ids=frozenset(settings.sdk_app_ids),
            tokens=settings.tokens(),
            path=settings.callback_path,
        )
        stop = threading.Event()
        when_told_to_stop(stop.set)
        journal = _as_soon_as_possible(lambda: _open_writer(settings), stop)
        if journal is not None:
            with closing(journal):
                app = create_app(journal, options, event=GreenletEvent)
                limits = Limits(per_address=settings.http_connections_per_address)
                server = Server(app, listener, limits)
                _when_set(stop, server.stop)
                _say_ready(report)
                server.run()


def follower(report: Report, settings: Settings) -> None:
    """Run the follower: fold the journal into the view."""
    with _process(report, settings, "follower"):
        from service.follower import Follower

        stop = threading.Event()
        when_told_to_stop(stop.set)
        journal = _as_soon_as_possible(lambda: _open_reader(settings), stop)
        if journal is not None:
            with closing(journal):
                work = Follower(journal, settings.data_dir)
                _say_ready(report)
                work.run(stop)


def rpc_worker(report: Report, settings: Settings, address: Address, name: str) -> None:
    """Run one rpc worker: answer gRPC from the view."""
    with _process(report, settings, name):
        asyncio.run(_serve(report, settings, address))


async def _serve(report: Report, settings: Settings, address: Address) -> None:
    from service.rpc.server import serve
    from service.view.store import locate

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    when_told_to_stop(lambda: _set(loop, stop))
    await serve(
        locate(settings.data_dir),
        str(address),
        sdk_app_ids=settings.sdk_app_ids,
        journal_backlog=_backlog(settings),
        stop=stop,
        on_ready=lambda _: _say_ready(report),
    )


def _say_ready(report: Report) -> None:
    """Say so; what is there by now stays, and the garbage collector need not walk through it.

    That takes tens of milliseconds each time, in which nobody is answered.
    """
    gc.unfreeze()  # it may be said again: what was there before may be garbage by now
    gc.collect()
    gc.freeze()
    report.ready()


def _set(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(stop.set)


def _when_set(stop: threading.Event, act: Callable[[], None]) -> None:
    def wait() -> None:
        stop.wait()
        act()

    threading.Thread(target=wait, name="when-set", daemon=True).start()


# The choice of the journal's engine: here and nowhere else.


def _open_writer(settings: Settings) -> "JournalWriter":
    from journal.sqlite import SqliteWriter

    return SqliteWriter(settings.data_dir / JOURNAL_FILE)


def _open_reader(settings: Settings) -> "JournalReader":
    from journal.sqlite import SqliteReader

    return SqliteReader(settings.data_dir / JOURNAL_FILE)


def _backlog(settings: Settings) -> "Backlog":
    from journal.backlog import Backlog

    return Backlog(lambda: _open_reader(settings))


def _as_soon_as_possible(open_: Callable[[], T], stop: threading.Event) -> T | None:
    """Open the journal once it is there and the disk lets us; None if told to stop before."""
    from journal.errors import Unavailable

    since, announcements = time.monotonic(), [(0.0, log.info), (ORDINARY_WAIT, log.warning)]
    while not stop.is_set():
        try:
            return open_()
        except Unavailable as reason:
            if announcements and time.monotonic() - since >= announcements[0][0]:
                announcements.pop(0)[1]("waiting_for_journal", reason=str(reason))
            stop.wait(RETRY)
    return None


@contextmanager
def _process(report: Report, settings: Settings, role: str) -> Iterator[None]:
    """Set up logs; report an error to the supervisor, and exit."""
    from journal.errors import JournalError, Unavailable

    logs.configure(settings, role)
    try:
        yield
    except Unavailable as error:
        report.trouble(str(error))
        sys.exit(1)
    except JournalError as error:
        report.failed(str(error))
        sys.exit(1)
    except Exception as error:
        log.exception("process_failed")
        report.trouble(f"{type(error).__name__}: {error}")
        sys.exit(1)

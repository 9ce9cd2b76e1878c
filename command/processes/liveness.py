"""Signs of life of a process whose main thread is an event loop, or waits for a long piece of work.

Without them the supervisor takes the process for hung.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import asynccontextmanager

from command.notifier import BEAT, Notifier
from command.signals import on_stop_request


def run_in_thread(notifier: Notifier, work: Callable[[], None]) -> None:
    """Run work of any length in a thread, and give signs of life meanwhile."""
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(work)
        while not future.done():
            wait([future], BEAT)
            notifier.alive()
        future.result()


@asynccontextmanager
async def serving(
    notifier: Notifier, reload: Callable[[], None] = lambda: None
) -> AsyncIterator[asyncio.Event]:
    """Give signs of life from this event loop. Yield an event that a request to stop sets.

    Args:
        notifier: reports to the supervisor.
        reload: called from a thread at each request to reload.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def set_stop() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)

    on_stop_request(set_stop, reload)
    beat = asyncio.create_task(_give_signs(notifier))
    try:
        yield stop
    finally:
        beat.cancel()


async def _give_signs(notifier: Notifier) -> None:
    while True:
        notifier.alive()
        await asyncio.sleep(BEAT)

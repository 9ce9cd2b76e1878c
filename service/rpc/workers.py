"""The rpc workers of this machine: each lists its streams for the others, on a Unix socket.

Nothing is shared, and nothing is computed before somebody asks.
"""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from google.protobuf.message import DecodeError

from desk.v1.status_pb2 import ListSubscribersResponse

SUFFIX = ".streams"
"""End of a socket's name; the beginning is the name of the worker."""

ANSWER_WITHIN = 1.0
"""Seconds for another worker to answer."""

RETRY = 60.0
"""Seconds until a socket that could not be made is tried again."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class Workers:
    """The workers that share an address, as one of them sees them.

    Attributes:
        folder: of their sockets; None: there is one worker only.
        name: of this worker.
        number: of all workers.
    """

    folder: Path | None = None
    name: str = "rpc-1"
    number: int = 1

    async def answer(self, listed: Callable[[], ListSubscribersResponse]) -> None:
        """Send the list of this worker's streams to each worker that connects, until cancelled."""

        async def send(_reader: StreamReader, writer: StreamWriter) -> None:
            writer.write(listed().SerializeToString())
            writer.close()

        while self.folder:
            try:
                path = self.folder / f"{self.name}{SUFFIX}"
                async with await asyncio.start_unix_server(send, path) as server:
                    await server.serve_forever()
            except OSError as error:
                _log.warning("streams_not_listed_for_others", reason=str(error))
                await asyncio.sleep(RETRY)

    async def ask(self) -> list[ListSubscribersResponse]:
        """Return the lists of the other workers that answer."""
        sockets = self.folder.glob(f"*{SUFFIX}") if self.folder else ()
        answers = await asyncio.gather(*(_ask(each) for each in sockets if each.stem != self.name))
        return [answer for answer in answers if answer.worker]


async def _ask(path: Path) -> ListSubscribersResponse:
    """Return the list of a worker; an empty message if it does not answer."""
    with suppress(OSError, TimeoutError, DecodeError):
        async with asyncio.timeout(ANSWER_WITHIN):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return ListSubscribersResponse.FromString(await reader.read())
            finally:
                writer.close()
    return ListSubscribersResponse()

"""The page of all processes, served over HTTP by their supervisor.

Asks every process at once, and leaves out those that do not answer in time. Bounded: few
connections, each for a short time. Must not know what the metrics mean.
"""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from socket import socket

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from metrics.endpoint import END, SUFFIX

ANSWER_WITHIN = 0.2
"""Seconds for the processes to answer."""

SERVE_WITHIN = 2.0
"""Seconds for a connection, from its begin to its end."""

MAX_CONNECTIONS = 16
"""Connections at once; more are closed."""

MAX_HEAD = 8 * 1024
"""Bytes of a request."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def serve_page(listener: socket, folder: Path) -> None:
    """Serve the page of the processes in a runtime folder, in a thread, until the process ends."""
    page = _Page(folder)
    threading.Thread(
        target=lambda: asyncio.run(page.serve(listener)), name="metrics", daemon=True
    ).start()


class _Page:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._connections = 0

    async def serve(self, listener: socket) -> None:
        server = await asyncio.start_server(self._connected, sock=listener, limit=MAX_HEAD)
        await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= MAX_CONNECTIONS:
                async with asyncio.timeout(SERVE_WITHIN):
                    request = await reader.readuntil(b"\r\n\r\n")
                    writer.write(await self._response(request))
                    await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            self._connections -= 1
            writer.close()

    async def _response(self, request: bytes) -> bytes:
        method, _, rest = request.partition(b" ")
        if method != b"GET" or rest.partition(b" ")[0].partition(b"?")[0] != b"/metrics":
            return _http("404 Not Found", b"only GET /metrics is here\n")
        return _http("200 OK", await collect(self._folder))


def _http(status: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


async def collect(folder: Path) -> bytes:
    """Return one page of the processes that answer; each sample has the label `process`."""
    sockets = _sockets(folder)
    pages = await asyncio.gather(*map(_ask, sockets.values()))
    return generate_latest(_Merged(zip(sockets, pages, strict=True)))


def _sockets(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


async def _ask(path: Path) -> str:
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(ANSWER_WITHIN):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                page = await reader.read()
                return page.decode() if page.endswith(END) else ""
            finally:
                writer.close()
    return ""


class _Merged:
    """The metrics of several pages, each name once, as Prometheus requires."""

    def __init__(self, pages: Iterable[tuple[str, str]]) -> None:
        self._metrics: dict[str, Metric] = {}
        for process, page in pages:
            for metric in text_string_to_metric_families(page):
                merged = self._metrics.setdefault(metric.name, metric)
                samples = [
                    each._replace(labels={**each.labels, "process": process})
                    for each in metric.samples
                ]
                merged.samples = samples if merged is metric else [*merged.samples, *samples]

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics.values()

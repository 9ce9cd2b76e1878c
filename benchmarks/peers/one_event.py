"""The simplest stream: grpc.aio, one row of SQLite and one event per message.

`python -m benchmarks.peers.one_event VIEW` sends the serialised records of a view unchanged, from
the first to the last.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from service.view.queries import RECORD_COLUMN
from service.view.store import open_reader

METHOD = "/peer.Events/Stream"

RECORDS = f"SELECT {RECORD_COLUMN} FROM feed ORDER BY position"


async def main(view: Path) -> None:
    """Serve until SIGTERM; print the port as JSON."""
    db = open_reader(view)

    async def stream(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        for (record,) in db.execute(RECORDS):
            yield record

    service, method = METHOD[1:].split("/")
    handlers: Any = {method: grpc.unary_stream_rpc_method_handler(stream)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"port": port}), flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))

"""The FastAPI service with PostgreSQL: asyncpg, a connection for each request in flight.

Concurrent commits share a flush in PostgreSQL itself.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI, HTTPException, Request

from benchmarks.peers.uvicorn_server import serve

SDK_APP_ID = 1600012345
CONNECTIONS = 32
OPTIONS = {"user": "postgres", "database": "postgres"}

TABLE = """
CREATE TABLE callbacks (id bigserial PRIMARY KEY, session_id text NOT NULL,
                        event text NOT NULL, event_time bigint NOT NULL, body bytea NOT NULL)
"""
INSERT = "INSERT INTO callbacks (session_id, event, event_time, body) VALUES ($1, $2, $3, $4)"


async def create_table(host: str) -> None:
    db = await asyncpg.connect(**OPTIONS, host=host)
    await db.execute(TABLE)
    await db.close()


def create_app(host: str) -> FastAPI:
    pools: list[asyncpg.Pool] = []

    @asynccontextmanager
    async def connected(_: FastAPI) -> AsyncIterator[None]:
        async with asyncpg.create_pool(
            **OPTIONS, host=host, min_size=CONNECTIONS, max_size=CONNECTIONS
        ) as pool:
            pools.append(pool)
            yield

    app = FastAPI(lifespan=connected)

    @app.post("/")
    async def callback(
        request: Request,
        SdkAppid: int,  # noqa: N803
        CallbackCommand: str,  # noqa: N803
    ) -> dict[str, object]:
        if SdkAppid != SDK_APP_ID or CallbackCommand != "Desk.SessionEventNotify":
            raise HTTPException(403)
        body = await request.body()
        event = json.loads(body)
        row = event["SessionId"], event["Event"], event["EventTime"], body
        await pools[0].execute(INSERT, *row)
        return {"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0}

    return app


if __name__ == "__main__":
    asyncio.run(create_table(sys.argv[1]))
    serve(create_app(sys.argv[1]))

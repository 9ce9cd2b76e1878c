"""The simplest service: FastAPI, uvicorn, SQLite, a commit per request.

One process, because SQLite has one writer. The statement runs in the handler itself: a thread for
it, or aiosqlite, was slower.
"""

import json
import sqlite3
import sys
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request

from benchmarks.peers.uvicorn_server import serve

SDK_APP_ID = 1600012345


def create_app(path: Path) -> FastAPI:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = wal")
    db.execute("PRAGMA synchronous = full")
    db.execute(
        "CREATE TABLE callbacks (id INTEGER PRIMARY KEY, session_id TEXT NOT NULL,"
        " event TEXT NOT NULL, event_time INTEGER NOT NULL, body BLOB NOT NULL)"
    )
    app = FastAPI()

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
        db.execute(
            "INSERT INTO callbacks (session_id, event, event_time, body) VALUES (?, ?, ?, ?)",
            (event["SessionId"], event["Event"], event["EventTime"], body),
        )
        return {"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0}

    return app


if __name__ == "__main__":
    serve(create_app(Path(sys.argv[1])))

"""uvicorn with its fastest options: uvloop, httptools, no access log."""

import json
import socket

import uvicorn
from fastapi import FastAPI


def serve(app: FastAPI) -> None:
    """Serve on a free port of loopback until SIGTERM. Print the port."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
    print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
    uvicorn.Server(config).run(sockets=[sock])

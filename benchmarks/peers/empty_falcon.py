"""A Falcon handler that does nothing, on the gateway's own server, tuned the same.

The gateway's callbacks go around Falcon there; these do not.

With the argument `stock`, on waitress as it comes, with the options that suit it best here.
"""

import gc
import json
import signal
import socket
import sys
import warnings

import falcon
import waitress

from gateway.acknowledgements import BODIES, Outcome
from gateway.app import App
from gateway.server import MAX_CONNECTIONS, Server


class Nothing:
    """Acknowledges, and forgets."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = BODIES[Outcome.KEPT]


def serve(app: App, sock: socket.socket) -> None:
    server = Server(app, sock)
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    server.run()


def serve_stock(app: App, sock: socket.socket) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # of send_bytes, which spares a busy loop
    waitress.serve(
        app,
        sockets=[sock],
        threads=4,  # more do not make it faster
        connection_limit=MAX_CONNECTIONS,
        asyncore_use_poll=True,
        send_bytes=65536,
        _quiet=True,
    )


def main() -> None:
    app = App()  # Falcon's, and nothing beside it
    app.add_route("/", Nothing())
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
    gc.collect()
    gc.freeze()  # as ours does
    run = serve_stock if "stock" in sys.argv else serve
    run(app, sock)


if __name__ == "__main__":
    main()

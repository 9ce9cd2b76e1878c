"""A Falcon handler that stores nothing, on stock waitress with its best options."""

import gc
import json
import socket
import warnings

import falcon
import waitress

from gateway.acknowledgements import BODIES, CONTENT_TYPE, Outcome
from gateway.waitress_server import MAX_CONNECTIONS


class Nothing:
    """Acknowledges callbacks without storing them."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = BODIES[Outcome.KEPT]


def main() -> None:
    app = falcon.App(media_type=CONTENT_TYPE)
    app.add_route("/", Nothing())
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
    gc.collect()
    gc.freeze()  # as the gateway does
    warnings.simplefilter("ignore", DeprecationWarning)  # of send_bytes, which avoids a busy loop
    waitress.serve(
        app,
        sockets=[sock],
        threads=8,
        connection_limit=MAX_CONNECTIONS,
        asyncore_use_poll=True,
        send_bytes=65536,
        _quiet=True,
    )


if __name__ == "__main__":
    main()

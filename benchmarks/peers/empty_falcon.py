"""A Falcon handler that stores nothing, on stock waitress with its best options."""

import gc
import json
import socket
import warnings

import falcon
import waitress

from gateway.answers import CONTENT_TYPE, Answer
from gateway.limits import Limits


class Nothing:
    """Acknowledges callbacks without storing them."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = Answer.KEPT.body


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
        connection_limit=Limits().connections,
        asyncore_use_poll=True,
        send_bytes=65536,
        _quiet=True,
    )


if __name__ == "__main__":
    main()

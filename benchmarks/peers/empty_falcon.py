"""The floor: a Falcon handler that does nothing, on the gateway's own server, tuned the same."""

import json
import signal
import socket

import falcon

from gateway.acknowledgements import BODIES, CONTENT_TYPE, Outcome
from gateway.server import Server


class Nothing:
    """Acknowledges, and forgets."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = BODIES[Outcome.KEPT]


def main() -> None:
    app = falcon.App(media_type=CONTENT_TYPE)
    app.add_route("/", Nothing())
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = Server(app, sock)
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
    server.run()


if __name__ == "__main__":
    main()

"""A real nats-server on loopback, with its store in a directory of the test's own."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from journal.jetstream import JetStreamOptions, JetStreamReader, JetStreamWriter
from journal.jetstream_access import Access
from journal.jetstream_stream import StreamOptions

SERVER = Path(sys.executable).with_name("nats-server")

MIB = 1024 * 1024

DEADLINE = 20.0
"""Seconds in which a server must be ready."""


class NatsServer:
    """One server; it keeps its port when it is started again."""

    def __init__(self, directory: Path, config: str = "") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._port = -1
        (directory / "nats.conf").write_text(
            f"max_payload: 8MB\n{config}\n"
            f"jetstream {{ store_dir: {directory}/store, max_file: 4GB }}\n"
        )

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._port}"

    def start(self) -> None:
        ports = self._directory / "ports"
        ports.mkdir(exist_ok=True)
        with (self._directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(str(SERVER), "--config", str(self._directory / "nats.conf")),
                    *("--addr", "127.0.0.1", "--port", str(self._port)),
                    *("--ports_file_dir", str(ports)),
                ],
                stdout=log,
                stderr=log,
            )
        path = ports / f"nats-server_{self.process.pid}.ports"
        end = time.monotonic() + DEADLINE
        while not (path.exists() and path.stat().st_size):
            assert self.process.poll() is None, (self._directory / "log").read_text()[-2000:]
            assert time.monotonic() < end, "nats-server is not ready"
            time.sleep(0.01)
        self._port = int(json.loads(path.read_text())["nats"][0].rpartition(":")[2])

    def stop(self, signum: int = signal.SIGKILL) -> None:
        self.process.send_signal(signum)
        self.process.wait(DEADLINE)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def options(self, name: str | None = None, **stream: int) -> JetStreamOptions:
        """Return the options of a journal on this server, by default of one that nobody has."""
        name = name or f"desk-{uuid4().hex[:8]}"
        return JetStreamOptions(
            access=Access(servers=(self.url,)),
            stream=StreamOptions(name=name, **{"max_bytes": 64 * MIB, **stream}),
        )

    def writer(self, name: str | None = None, **stream: int) -> JetStreamWriter:
        return JetStreamWriter(self.options(name, **stream))

    def reader(self, name: str) -> JetStreamReader:
        return JetStreamReader(self.options(name))


@contextmanager
def nats_server(directory: Path, config: str = "") -> Iterator[NatsServer]:
    server = NatsServer(directory, config)
    server.start()
    try:
        yield server
    finally:
        server.stop()

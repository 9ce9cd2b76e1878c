"""The parts of a cluster: nats-servers, gateways, services. Each is killed, frozen and started."""

import os
import re
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random, SystemRandom
from shutil import rmtree
from subprocess import TimeoutExpired

from tests.support.nats import NatsServer
from tests.support.processes import RunningDesk, run
from tests.support.proxy import Proxy

FULL = 1
"""Bytes that a file may have on a full disk."""

SNAPSHOT_WITHIN = 10.0
"""Seconds in which a snapshot must be published, or there is none."""

_TRACEBACK = re.compile(r"^.*Traceback.*(?:\n .*)*(?:\n\w.*)?", re.MULTILINE)
"""In a log record a line, otherwise some that are indented and the error."""

MAX_SHOWN = 300
"""Characters of a traceback that are shown."""

PORTS = range(10_000, 32_000)
"""Below those that the kernel gives to connections: none takes that of a part that is down."""


class Part:
    """A part of the cluster.

    Attributes:
        name: of the part.
        ways: proxies on all ways to other parts.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.ways: list[Proxy] = []

    def start(self) -> None:
        raise NotImplementedError

    def stop(self, signum: int) -> None:
        """Send the signal, and wait for the end."""
        raise NotImplementedError

    def signal(self, signum: int) -> None:
        raise NotImplementedError

    def output(self) -> str:
        """Return all that it has logged."""
        raise NotImplementedError

    def stall(self) -> None:
        for way in self.ways:
            way.stall()

    def flow(self) -> None:
        for way in self.ways:
            way.flow()

    def drop(self) -> None:
        """End `stall`; what it held back is lost."""
        self.cut()
        self.flow()

    def restart(self) -> None:
        self.stop(signal.SIGKILL)
        self.start()

    def cut(self, *, single: bool = False) -> None:
        for way in self.ways:
            way.cut(single=single)


class ServerPart(Part):
    """A nats-server of a cluster, which syncs each message."""

    def __init__(self, name: str, directory: Path, port: int) -> None:
        """Prepare it; `port` is for the other servers."""
        super().__init__(name)
        self._log = directory / "log"
        self._cluster = (
            f"server_name: {name}\ncluster {{ name: desk, listen: 127.0.0.1:{port}, "
            "no_advertise: true, advertise: 127.0.0.1:1, routes: [%s] }"
        )
        self.server = _SyncingServer(directory)
        self.server.port = free_port()

    def connect(self, routes: Sequence[Proxy]) -> None:
        """Set the ways to the other servers: it knows no others."""
        known = ", ".join(f"nats://127.0.0.1:{each.port}" for each in routes)
        self.server.configure(self._cluster % known)

    def start(self) -> None:
        self.server.start()

    def stop(self, signum: int) -> None:
        self.server.stop(signum)

    def signal(self, signum: int) -> None:
        self.server.process.send_signal(signum)

    def output(self) -> str:
        return self._log.read_text(errors="replace")


class _SyncingServer(NatsServer):
    def configure(self, *lines: str) -> None:
        store = f"store_dir: {self._directory}/store, max_file: 4GB, sync_interval: always"
        config = "\n".join([*lines, f"jetstream {{ {store} }}"])
        (self._directory / "nats.conf").write_text(config)


class DeskPart(Part):
    """A `desk` command and its processes.

    Attributes:
        port: where it listens, after each start.
        settings: for the next start.
    """

    def __init__(self, name: str, directory: Path) -> None:
        super().__init__(name)
        self._directory = directory
        self.settings: dict[str, str] = {}
        self._runs: list[RunningDesk] = []
        self.port = free_port()

    @property
    def running(self) -> RunningDesk:
        return self._runs[-1]

    def start(self) -> None:
        command = self.name.partition("-")[0]
        listen = "DESK_HTTP_LISTEN" if command == "gateway" else "DESK_GRPC_LISTEN"
        settings = {**self.settings, listen: f"127.0.0.1:{self.port}"}
        arguments = (sys.executable, "-m", "command", command)
        self._runs.append(RunningDesk(arguments, self._directory, settings))

    def stop(self, signum: int) -> None:
        if signum == signal.SIGKILL:
            self.running.kill()
        else:
            self.running.terminate(signum)

    def signal(self, signum: int) -> None:
        os.killpg(self.running.pid, signum)

    def kill_child(self, random: Random) -> None:
        """Kill one of its processes; its supervisor starts it again."""
        if children := sorted(self.running.children()):
            with suppress(ProcessLookupError):
                os.kill(random.choice(children), signal.SIGKILL)

    def lose_view(self) -> None:
        """Publish a snapshot, if that is possible now; kill it, and delete all that it stores."""
        settings = {**self.settings, "DESK_DATA_DIR": str(self._directory)}
        with suppress(TimeoutExpired):
            run("view", "snapshot", timeout=SNAPSHOT_WITHIN, **settings)
        self.running.kill()
        rmtree(self._directory)

    def limit_files(self, size: int = resource.RLIM_INFINITY) -> None:
        """Let no file of its processes grow beyond a size."""
        for pid in self.running.children():
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def exceptions(self) -> list[str]:
        """Return the ends of the tracebacks that it has logged: none is expected."""
        return [each[-MAX_SHOWN:] for each in _TRACEBACK.findall(self.output())]

    def output(self) -> str:
        return "\n---- started again ----\n".join(run.output for run in self._runs)


def free_port() -> int:
    while True:
        port = SystemRandom().choice(PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port

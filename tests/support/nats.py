"""A real nats-server on loopback, with its store in a directory of the test's own."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import nats
import nkeys
from nats.js import JetStreamContext

from journal.jetstream import JetStreamOptions, JetStreamWriter
from journal.jetstream_access import Access
from journal.jetstream_stream import StreamOptions
from tests.support.loopback import reserved_port
from tests.support.waiting import PATIENCE as DEADLINE

SERVER = Path(sys.executable).with_name("nats-server")

T = TypeVar("T")

MIB = 1024 * 1024


class NatsServer:
    """One server; it keeps its port when it is started again.

    Attributes:
        port: where it listens.
    """

    def __init__(self, directory: Path, config: str = "", jetstream: str = "") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._jetstream = f"store_dir: {directory}/store, max_file: 64GB\n{jetstream}\n"
        self.port = -1
        self.configure("max_payload: 8MB", config)

    def configure(self, *lines: str, has_jetstream: bool = True) -> None:
        """Write the configuration for the next start."""
        store = f"jetstream {{ {self._jetstream} }}\n"
        content = [*lines, store] if has_jetstream else lines
        (self._directory / "nats.conf").write_text("\n".join(content))

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        ports = self._directory / "ports"
        ports.mkdir(exist_ok=True)
        with (self._directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(str(SERVER), "--config", str(self._directory / "nats.conf")),
                    *("--addr", "127.0.0.1", "--port", str(self.port)),
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
        self.port = int(json.loads(path.read_text())["nats"][0].rpartition(":")[2])

    def stop(self, signum: int = signal.SIGKILL) -> None:
        self.process.send_signal(signum)
        self.process.wait(DEADLINE)

    def contents(self, stream: str = "") -> Iterator[bytes]:
        """Read the files of the store, or of one stream."""
        pattern = f"{stream}/**/*" if stream else "*"
        for file in (self._directory / "store").rglob(pattern):
            with suppress(OSError):  # it was removed since
                if file.is_file():
                    yield file.read_bytes()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def manage(self, work: Callable[[JetStreamContext], Awaitable[T]]) -> T:
        """Do what an operator does with the `nats` command."""

        async def connected() -> T:
            client = await nats.connect(self.url)
            try:
                return await work(client.jetstream())
            finally:
                await client.close()

        return asyncio.run(connected())

    def options(self, name: str | None = None, **stream: int) -> JetStreamOptions:
        """Return the options of a journal on this server, by default of one that nobody has."""
        name = name or f"desk-{uuid4().hex[:8]}"
        return JetStreamOptions(
            access=Access(servers=(self.url,)),
            stream=StreamOptions(name=name, **{"max_bytes": 64 * MIB, **stream}),
        )

    def writer(self, name: str | None = None, **stream: int) -> JetStreamWriter:
        return JetStreamWriter(self.options(name, **stream))


@contextmanager
def nats_server(directory: Path, config: str = "", jetstream: str = "") -> Iterator[NatsServer]:
    with reserved_port() as port:
        server = NatsServer(directory, config, jetstream)
        server.port = port
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def nats_cluster(
    directory: Path, config: str = "", jetstream: str = ""
) -> Iterator[list[NatsServer]]:
    """Three servers that know each other."""
    with ExitStack() as stack:
        routes = [stack.enter_context(reserved_port()) for _ in range(3)]
        known = ", ".join(f"nats://127.0.0.1:{port}" for port in routes)
        servers = [
            stack.enter_context(
                nats_server(
                    directory / f"n{number}",
                    f"server_name: n{number}\ncluster {{ name: desk, "
                    f"listen: 127.0.0.1:{port}, routes: [{known}] }}\n{config}",
                    jetstream,
                )
            )
            for number, port in enumerate(routes, start=1)
        ]
        yield servers


def at(options: JetStreamOptions, *ports: int, **access: Path) -> JetStreamOptions:
    """Return the options with other servers on this machine."""
    servers = tuple(f"nats://127.0.0.1:{port}" for port in ports)
    return replace(options, access=replace(options.access, servers=servers, **access))


def operator_config(creds: Path) -> str:
    """Return the configuration of a server with accounts, and write the credentials of a user."""
    operator = _Identity(nkeys.PREFIX_BYTE_OPERATOR)
    system, account = (_Identity(nkeys.PREFIX_BYTE_ACCOUNT) for _ in range(2))
    user = _Identity(nkeys.PREFIX_BYTE_USER)
    unlimited = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn"), -1)
    storage = dict.fromkeys(("leaf", "mem_storage", "disk_storage", "streams", "consumer"), -1)
    limits = {**unlimited, **storage, "wildcards": True}
    creds.write_text(
        "-----BEGIN NATS USER JWT-----\n"
        f"{account.issue(user, 'user', subs=-1, data=-1, payload=-1)}\n"
        "------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n"
        f"{user.seed}\n------END USER NKEY SEED------\n"
    )
    return "\n".join(
        [
            f"operator: {operator.issue(operator, 'operator')}",
            f"system_account: {system.public}",
            "resolver: MEMORY",
            "resolver_preload {",
            f"{system.public}: {operator.issue(system, 'account', limits=unlimited)}",
            f"{account.public}: {operator.issue(account, 'account', limits=limits)}",
            "}",
        ]
    )


class _Identity:
    def __init__(self, prefix: int) -> None:
        self.seed = nkeys.encode_seed(os.urandom(32), prefix).decode()
        self.public = nkeys.from_seed(bytearray(self.seed.encode())).public_key.decode()

    def issue(self, subject: "_Identity", kind: str, **claims: object) -> str:
        """Sign a JWT for another identity."""
        body = {
            "jti": subject.public,
            "iat": int(time.time()),
            "iss": self.public,
            "name": kind,
            "sub": subject.public,
            "nats": {**claims, "type": kind, "version": 2},
        }
        text = f"{_encoded({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_encoded(body)}"
        signature = nkeys.from_seed(bytearray(self.seed.encode())).sign(text.encode())
        return f"{text}.{_base64(signature)}"


def _encoded(part: dict[str, object]) -> str:
    return _base64(json.dumps(part).encode())


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")

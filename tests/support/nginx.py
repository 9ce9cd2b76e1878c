"""nginx with the files of deploy/nginx, on ephemeral loopback ports, in a directory of its own."""

import re
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from command.address import Address
from command.sockets import bound_address, reserve
from tests.support.certificates import Authority
from tests.support.debian import program
from tests.support.loopback import listens
from tests.support.processes import DEADLINE, ROOT, wait_until

SHIPPED = ROOT / "deploy" / "nginx"

NGINX = program("nginx", "nginx")
"""The program; None if there is none."""

PORTS = ("443", "50443", "8443")
"""The ports of the shipped files: callbacks, gRPC, the console."""

ANYWHERE = Address("127.0.0.1", 0)


class Certificates:
    """An authority, and certificates of `server` and `client`; that of `stranger` is its own."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.pairs = {
            "server": self.authority.issue("server", "IP:127.0.0.1,DNS:desk.example"),
            "client": self.authority.issue("client"),
            "stranger": Authority(directory, "stranger").own,
        }


@dataclass(frozen=True)
class RunningNginx:
    """nginx that runs.

    Attributes:
        https: port where callbacks are taken.
        grpc: port where gRPC is answered.
        console: port of the console.
        directory: where its files are.
        certificates: what it and its clients trust.
    """

    https: int
    grpc: int
    console: int
    directory: Path
    certificates: Certificates

    @property
    def access_log(self) -> str:
        return (self.directory / "access.log").read_text()

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.certificates.authority.file)


@contextmanager
def running(
    directory: Path,
    *,
    gateway: str,
    service: str,
    console: str = "127.0.0.1:8081",
    certificates: Certificates | None = None,
    edits: Mapping[str, str] | None = None,
) -> Iterator[RunningNginx]:
    """Run nginx in front of these addresses until the block is left.

    Args:
        directory: for its files.
        gateway: its address.
        service: its address.
        console: its address.
        certificates: new ones by default.
        edits: regular expressions, and what an operator puts in place of them in the files.
    """
    certificates = certificates or Certificates(directory)
    with ExitStack() as stack:
        reserved = [stack.enter_context(closing(reserve(ANYWHERE))) for _ in PORTS]
        ports = {port: bound_address(here).port for port, here in zip(PORTS, reserved, strict=True)}
        backends = {
            "127.0.0.1:8080": gateway,
            "127.0.0.1:50051": service,
            "127.0.0.1:8081": console,
        }
        _write(directory, certificates, backends, ports)
        for pattern, text in (edits or {}).items():
            _edit(directory, pattern, text)
        process = subprocess.Popen(_command(directory), stderr=subprocess.PIPE, text=True)
        try:
            wait_until(
                lambda: (
                    process.poll() is not None
                    or all(listens("127.0.0.1", port) for port in ports.values())
                )
            )
            assert process.poll() is None, process.communicate()[1]
            yield RunningNginx(*ports.values(), directory, certificates)
        finally:
            process.terminate()
            process.communicate(timeout=DEADLINE)


def check(directory: Path, *, place: str) -> subprocess.CompletedProcess[str]:
    """Have nginx check the shipped files; `place` is `machine.conf` or `compose.conf`."""
    _write(directory, Certificates(directory), {}, {port: int(port) for port in PORTS}, place)
    return subprocess.run(
        [*_command(directory), "-t"], capture_output=True, text=True, check=False, timeout=DEADLINE
    )


def _command(directory: Path) -> list[str]:
    main = f"daemon off; pid {directory}/nginx.pid;"
    return [str(NGINX), "-p", str(directory), "-c", "nginx.conf", "-e", "error.log", "-g", main]


def _write(
    directory: Path,
    certificates: Certificates,
    backends: dict[str, str],
    ports: dict[str, int],
    place: str = "machine.conf",
) -> None:
    """Copy the shipped files with what differs on this machine replaced: paths and addresses."""
    for name in ("nginx.conf", "callbacks.conf", "grpc.conf", "console.conf", place):
        text = (SHIPPED / name).read_text()
        for port, here in ports.items():
            text = text.replace(f"listen {port} ssl", f"listen 127.0.0.1:{here} reuseport ssl")
        text = text.replace("/var/log/nginx", str(directory))
        text = text.replace("/etc/nginx/tls/server.crt", str(certificates.pairs["server"].chain))
        text = text.replace("/etc/nginx/tls/server.key", str(certificates.pairs["server"].key))
        text = text.replace("/etc/nginx/tls/clients.crt", str(certificates.authority.file))
        for address, backend in backends.items():
            text = text.replace(address, backend)
        (directory / name).write_text(confined(directory, text))


def _edit(directory: Path, pattern: str, text: str) -> None:
    number = 0
    for file in directory.glob("*.conf"):
        changed, found = re.subn(pattern, text, file.read_text(), flags=re.MULTILINE)
        file.write_text(changed)
        number += found
    assert number, f"no shipped file has {pattern}"


def confined(directory: Path, text: str) -> str:
    """Return nginx.conf for a user of this machine: temporary files are below a directory."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"    {kind}_temp_path {directory}/{kind};\n" for kind in kinds)
    text = text.replace("http {\n", "http {\n" + paths)
    return re.sub(r"^user .*\n", "", text, flags=re.MULTILINE)

"""nginx with the files of deploy/nginx, on ephemeral loopback ports, in a directory of its own."""

import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from command.address import Address
from command.sockets import bound_address, reserve
from tests.support.certificates import Authority
from tests.support.loopback import listens
from tests.support.processes import DEADLINE, ROOT, wait_until

SHIPPED = ROOT / "deploy" / "nginx"

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:{ROOT}/.venv/nginx/usr/sbin")
"""The program, installed or fetched by `make nginx`; None if there is none."""

ANYWHERE = Address("127.0.0.1", 0)


@dataclass(frozen=True)
class RunningNginx:
    """nginx that runs.

    Attributes:
        https: port where callbacks are taken.
        grpc: port where gRPC is answered.
        directory: where its files are.
        authority: whom it and its clients trust.
    """

    https: int
    grpc: int
    directory: Path
    authority: Authority

    @property
    def access_log(self) -> str:
        return (self.directory / "access.log").read_text()

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority.file)


@contextmanager
def running(directory: Path, *, gateway: str, service: str) -> Iterator[RunningNginx]:
    """Run nginx in front of two addresses until the block is left."""
    authority = _certificates(directory)
    with closing(reserve(ANYWHERE)) as https, closing(reserve(ANYWHERE)) as grpc:
        ports = {"443": bound_address(https).port, "50443": bound_address(grpc).port}
        _write(directory, {"127.0.0.1:8080": gateway, "127.0.0.1:50051": service}, ports)
        process = subprocess.Popen(_command(directory), stderr=subprocess.PIPE, text=True)
        try:
            wait_until(
                lambda: (
                    process.poll() is not None
                    or all(listens("127.0.0.1", port) for port in ports.values())
                )
            )
            assert process.poll() is None, process.communicate()[1]
            yield RunningNginx(ports["443"], ports["50443"], directory, authority)
        finally:
            process.terminate()
            process.communicate(timeout=DEADLINE)


def check(directory: Path, *, place: str) -> subprocess.CompletedProcess[str]:
    """Have nginx check the shipped files; `place` is `machine.conf` or `compose.conf`."""
    _certificates(directory)
    _write(directory, {}, {"443": 443, "50443": 50443}, place)
    return subprocess.run(
        [*_command(directory), "-t"], capture_output=True, text=True, check=False, timeout=DEADLINE
    )


def _certificates(directory: Path) -> Authority:
    authority = Authority(directory)
    authority.issue("server", "IP:127.0.0.1")
    return authority


def _command(directory: Path) -> list[str]:
    main = f"daemon off; pid {directory}/nginx.pid;"
    return [str(NGINX), "-p", str(directory), "-c", "nginx.conf", "-e", "error.log", "-g", main]


def _write(
    directory: Path,
    backends: dict[str, str],
    ports: dict[str, int],
    place: str = "machine.conf",
) -> None:
    """Copy the shipped files with what differs on this machine replaced: paths and addresses."""
    for name in ("nginx.conf", "callbacks.conf", "grpc.conf"):
        text = (SHIPPED / name).read_text()
        for port, here in ports.items():
            text = text.replace(f"listen {port} ssl", f"listen 127.0.0.1:{here} reuseport ssl")
        text = text.replace("/var/log/nginx", str(directory))
        text = text.replace("/etc/nginx/tls/server.crt", f"{directory}/authority-server.pem")
        text = text.replace("/etc/nginx/tls/server.key", f"{directory}/authority-server.key")
        text = text.replace("/etc/nginx/tls/clients.crt", f"{directory}/authority.pem")
        (directory / name).write_text(confined(directory, text))
    text = (SHIPPED / place).read_text()
    for address, backend in backends.items():
        text = text.replace(address, backend)
    (directory / place).write_text(text)


def confined(directory: Path, text: str) -> str:
    """Return nginx.conf for a user of this machine: temporary files are below a directory."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"    {kind}_temp_path {directory}/{kind};\n" for kind in kinds)
    text = text.replace("http {\n", "http {\n" + paths)
    return re.sub(r"^user .*\n", "", text, flags=re.MULTILINE)

"""docker-compose.cluster.yml on this machine, without Docker. `make cluster` runs it."""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import nkeys

from tests.support.certificates import Authority
from tests.support.compose import Project, read_compose
from tests.support.nats import MIB, SERVER
from tests.support.nginx import NGINX, confined
from tests.support.processes import ROOT, SDK_APP_ID
from tests.support.prometheus import PROMETHEUS
from tests.support.waiting import eventually

FILE = ROOT / "docker-compose.cluster.yml"

TOKEN = "xxxxyyyy"

USERS = ("gateway", "service", "operator")
"""The users of NATS."""

VIEWER = ("ann", "sees-the-board")
"""User and password of the console."""

WITHIN = 90.0
"""Seconds until a part must be healthy: many times what it takes on a quiet machine."""

GUIDE = """
The cluster runs: callbacks at https://{https}, gRPC at {grpc}, Prometheus at http://{prometheus},
the console at http://{console} (user {user}, password {password}). In another terminal:

    cd {directory}
    export DESK_SIMULATE_TOKEN={token} SSL_CERT_FILE=authority.pem DESK_CLIENT_TLS_CA=authority.pem
    export DESK_CLIENT_TLS_CERT=authority-client.pem DESK_CLIENT_TLS_KEY=authority-client.key
    {desk} simulate https://{https} --sessions 500 --rate 50 --retry-for 60 --verify {grpc}
    {desk} watch --target {grpc}
    {desk} status --target {services[0]},{services[1]} --tls-name service

Meanwhile kill any process. It is started again, and the simulation finds no difference:
{processes}

The logs are {directory}/*.log. Ctrl-C ends everything and removes {directory}."""


def variables(directory: Path) -> dict[str, str]:
    """Return the values of the required variables, for files in a directory."""
    return {
        "DESK_SDK_APP_IDS": str(SDK_APP_ID),
        "DESK_CALLBACK_TOKENS_FILE": f"{directory}/tokens",
        "GATEWAY_NKEY_FILE": f"{directory}/gateway.nk",
        "SERVICE_NKEY_FILE": f"{directory}/service.nk",
        **{f"NATS_{user.upper()}_KEY": "U" for user in USERS},
        "TLS_CERTIFICATE_FILE": f"{directory}/authority-nginx.pem",
        "TLS_KEY_FILE": f"{directory}/authority-nginx.key",
        "TLS_CLIENTS_FILE": f"{directory}/authority.pem",
        "CLUSTER_CA_FILE": f"{directory}/authority.pem",
        "CLUSTER_CERTIFICATE_FILE": f"{directory}/authority-cluster.pem",
        "CLUSTER_KEY_FILE": f"{directory}/authority-cluster.key",
    }


@contextmanager
def running(directory: Path) -> Iterator[Project]:
    """Run all parts until the block is left; they are healthy when it is entered."""
    project = _project(directory)
    names = [*project.names, "console"]
    with ExitStack() as stack:
        stack.callback(project.stop_all)
        for name in names:
            project.start(name)
        for name in names:
            await_healthy(project, name)
        yield project


def await_healthy(project: Project, name: str) -> None:
    def healthy() -> bool:
        project.restart_ended()
        return project.is_healthy(name)

    eventually(
        healthy, within=WITHIN, what=f"{name} is healthy; see {project.directory}/{name}.log"
    )


def _project(directory: Path) -> Project:
    authority = Authority(directory)
    (directory / "tokens").write_text(f"{SDK_APP_ID}={TOKEN}\n")
    (directory / "config").mkdir()
    (directory / "config" / "console_passwords").write_text(":".join(VIEWER))
    keys = {f"NATS_{user.upper()}_KEY": new_nkey(directory / f"{user}.nk") for user in USERS}
    given = {
        **keys,
        "DESK_NATS_MAX_BYTES": str(64 * MIB),
        "CONFIG_DIR": f"{directory}/config",
    }
    desk = [sys.executable, "-m", "command"]
    project = Project(
        directory,
        read_compose(FILE, **variables(directory) | given),
        programs={
            "desk-sessions": desk,
            "desk": desk,
            "nats-server": [str(SERVER)],
            "nginx": [str(NGINX), "-c", "/etc/nginx/nginx.conf", "-e", "/var/log/nginx/error.log"],
            "prometheus": [str(PROMETHEUS)],
        },
        folders=["/var/log/nginx"],
        rewrite={
            "/etc/nginx/nginx.conf": partial(confined, Path("/tmp")),
            "/etc/nginx/cluster.conf": _without_resolve,
            "/etc/prometheus/prometheus.yml": _more_often,
        },
    )
    authority.issue("client")
    authority.issue("nginx", _names(project, "nginx"))
    inside = [name for name in project.names if name.startswith(("nats", "service"))]
    authority.issue("cluster", f"{_names(project, *inside)},DNS:service")
    return project


def new_nkey(file: Path) -> str:
    """Write the seed of a user of NATS; return the public half."""
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    file.write_bytes(seed)
    return nkeys.from_seed(bytearray(seed)).public_key.decode()


def _names(project: Project, *parts: str) -> str:
    return ",".join(f"IP:{project.hosts[part]}" for part in parts)


def _without_resolve(text: str) -> str:
    """Leave out what nginx has learned in 1.27.3; Debian's may be older. Addresses stay here."""
    return text.replace(" resolve ", " ")


def _more_often(text: str) -> str:
    return re.sub(r"(_interval:) 15s", r"\1 1s", text)


def main() -> None:
    """Run the cluster until Ctrl-C; start again what has ended."""
    if not (NGINX and PROMETHEUS):
        sys.exit("make: nginx and prometheus are needed, and cannot be had from here")
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.default_int_handler)
    with TemporaryDirectory(prefix="desk-cluster-") as directory, suppress(KeyboardInterrupt):
        print("Starting 3 nats-servers, 2 gateways, 2 services, console, nginx and Prometheus …")
        with running(Path(directory)) as project:
            print(_guide(project), flush=True)
            while True:
                time.sleep(0.5)
                for name in project.restart_ended():
                    pid = project.processes()[name]
                    print(f"{name} has ended and is started again: kill -9 {pid}", flush=True)


def _guide(project: Project) -> str:
    return GUIDE.format(
        token=TOKEN,
        directory=project.directory,
        desk=Path(sys.executable).with_name("desk"),
        https=project.address("nginx", 443),
        grpc=project.address("nginx", 50443),
        prometheus=project.address("prometheus", 9090),
        console=project.address("console", 8081),
        user=VIEWER[0],
        password=VIEWER[1],
        services=[project.address(name, 50051) for name in ("service-1", "service-2")],
        processes="\n".join(
            f"    kill -9 {pid}   # {name}" for name, pid in project.processes().items()
        ),
    )


if __name__ == "__main__":
    main()

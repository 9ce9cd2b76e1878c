"""docker-compose.cluster.yml without Docker: any part dies, and nobody notices."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from command.settings import Settings
from command.settings_warnings import CLIENT_SETTINGS
from journal.jetstream import OLDEST_SERVER
from tests.support import cluster
from tests.support.compose import Project, Refused, read_compose
from tests.support.nginx import NGINX
from tests.support.processes import DEADLINE, ROOT, run
from tests.support.prometheus import PROMETHEUS, RunningPrometheus
from tests.support.waiting import eventually

pytestmark = pytest.mark.tools

REQUIRED = cluster.variables(Path("/somewhere"))
SERVICES = read_compose(cluster.FILE, **REQUIRED)["services"]

PUBLISHED = {
    "nginx": ["443:443", "50443:50443"],
    "prometheus": ["127.0.0.1:9090:9090"],
    "console": ["127.0.0.1:8081:8081"],
}

MEANWHILE = 20
"""Callbacks that are acknowledged before each death, and again while the part is dead."""


class Load:
    """Callbacks through nginx, in runs of two kinds beside each other.

    Those of one kind are verified through nginx. That may wait for what a dead gateway has in its
    spool; those of the other kind are only sent, and go on meanwhile.

    Attributes:
        runs: summaries of the verified runs in which something was acknowledged.
    """

    def __init__(self, project: Project) -> None:
        self.runs: list[dict[str, Any]] = []
        self._project = project
        self._stop = threading.Event()
        self._log = project.directory / "nginx/var/log/nginx/access.log"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send until the block is left, and to the end of the runs."""
        threads = [threading.Thread(target=each) for each in (self._send, self._verify)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def go_on(self) -> None:
        """Wait until more callbacks are acknowledged."""
        before = self._acknowledged()
        eventually(lambda: self._acknowledged() >= before + MEANWHILE, within=cluster.WITHIN)

    def answers(self, status: str) -> int:
        """Count callbacks by the status that Desk got, and those of the gateways."""
        return len(re.findall(rf'"POST /" {status} ', self._log.read_text()))

    def _acknowledged(self) -> int:
        return self.answers("200")

    def _send(self) -> None:
        while not self._stop.is_set():
            self._simulate("--sessions", "10", "--rate", "20")

    def _verify(self) -> None:
        target = self._project.address("nginx", 50443)
        while not self._stop.is_set():
            summary = self._simulate("--sessions", "30", "--rate", "100", "--verify", target)
            if summary["accepted"]:  # gateways and services were there when the run began
                self.runs.append(summary)

    def _simulate(self, *options: str) -> dict[str, Any]:
        done = run(
            *("simulate", f"https://{self._project.address('nginx', 443)}", *options),
            *("--duplicates", "10%", "--shuffle", "20%", "--retry-for", "60", "--json"),
            DESK_SIMULATE_TOKEN=cluster.TOKEN,
            timeout=3 * cluster.WITHIN,
            **certified(self._project),
        )
        summary: dict[str, Any] = json.loads(done.stdout)
        return summary


def certified(project: Project) -> dict[str, Any]:
    """Return the settings of a client with a certificate."""
    authority = f"{project.directory}/authority"
    return {
        "SSL_CERT_FILE": f"{authority}.pem",
        "DESK_CLIENT_TLS_CA": f"{authority}.pem",
        "DESK_CLIENT_TLS_CERT": f"{authority}-client.pem",
        "DESK_CLIENT_TLS_KEY": f"{authority}-client.key",
    }


@pytest.mark.skipif(not (NGINX and PROMETHEUS), reason="there is no nginx, or no Prometheus")
@pytest.mark.timeout(900)
def test_no_callback_is_lost_while_one_part_of_each_kind_dies(tmp_path: Path) -> None:
    with cluster.running(tmp_path) as project:
        load = Load(project)
        with load.running():
            load.go_on()
            victims = [leader(project), "gateway-1", "service-1", "nginx"]
            for name in victims:
                project.kill(name)
                if name == "service-1":  # callbacks do not need it
                    eventually(lambda: answers_in_a_row(project, 4), within=cluster.WITHIN)
                elif name != "nginx":
                    load.go_on()
                project.start(name)
                load.go_on()
            await_callback_taken_over_from_a_frozen_gateway(project, load)
        for name in victims:
            cluster.await_healthy(project, name)
        eventually(lambda: replicas_agree(project))
        watching = RunningPrometheus(project.hosts["prometheus"])
        eventually(lambda: watching.value('sum(up{job="desk"})') == 4)
        eventually(lambda: watching.value('up{job="desk-console"}') == 1)
        eventually(lambda: replicas_in_the_console(project) == (["", ""], "yes"))

    assert load.runs
    for summary in load.runs:
        assert "error" not in summary, summary
        assert summary["unknown"] == 0
        assert summary["refused"] == {}
        assert summary["verification"]["details"] == []
        assert summary["verification"]["sessions"] == 30


def await_callback_taken_over_from_a_frozen_gateway(project: Project, load: Load) -> None:
    """Freeze a gateway until nginx has passed one of its callbacks on to the other gateway.

    That one acknowledges the callback within the two seconds that Desk waits.
    """
    cluster.await_healthy(project, "gateway-1")
    taken_over = r"200 \d+ [01]\.\d+ 504, 200"
    before = load.answers(taken_over)
    os.killpg(project.processes()["gateway-2"], signal.SIGSTOP)
    try:
        eventually(lambda: load.answers(taken_over) > before, within=cluster.WITHIN)
    finally:
        os.killpg(project.processes()["gateway-2"], signal.SIGCONT)


def leader(project: Project) -> str:
    """Return the name of the server that orders the stream."""
    url = f"http://{project.address('nats-1', 8222)}/jsz?accounts=true&streams=true"
    with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
        (account,) = json.load(answer)["account_details"]
    return str(account["stream_detail"][0]["cluster"]["leader"])


def replicas_agree(project: Project) -> bool:
    """Compare the digests of both services at one revision."""
    both = ",".join(project.address(name, 50051) for name in ("service-1", "service-2"))
    authority = f"{project.directory}/authority.pem"
    options = ("--tls-ca", authority, "--tls-name", "service")
    asked = run("status", *options, target=both, timeout=cluster.WITHIN)
    return asked.returncode == 0


def replicas_in_the_console(project: Project) -> tuple[list[str], str]:
    """Return what the console says of both services: the error of each, and their agreement."""
    password = base64.b64encode(":".join(cluster.VIEWER).encode()).decode()
    request = urllib.request.Request(
        f"http://{project.address('console', 8081)}/health.json",
        headers={"Authorization": f"Basic {password}"},
    )
    with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
        health = json.load(answer)
    return [each["error"] for each in health["replicas"]], health["agreement"]


def answers_in_a_row(project: Project, count: int) -> bool:
    """Ask so many times; return False at the first failure."""
    return all(status_through_nginx(project) == 0 for _ in range(count))


def status_through_nginx(project: Project) -> int:
    """Ask one of the services with a certificate; return the exit code."""
    target = project.address("nginx", 50443)
    asked = run("status", target=target, timeout=cluster.WITHIN, **certified(project))
    return asked.returncode


def test_compose_accepts_the_file() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    schema = ("--builtin-schema", "vendor.compose-spec")
    checked = subprocess.run(
        [checker, *schema, cluster.FILE], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("missing", REQUIRED)
def test_compose_refuses_to_start_without_what_has_no_default(missing: str) -> None:
    given = {name: value for name, value in REQUIRED.items() if name != missing}

    with pytest.raises(Refused, match=missing):
        read_compose(cluster.FILE, **given)


def test_every_variable_of_the_file_is_in_the_example() -> None:
    example = (ROOT / ".env.example").read_text()
    documented = set(re.findall(r"^#? ?([A-Z_]+)=", example, flags=re.MULTILINE))

    assert set(re.findall(r"\$\{(\w+)", cluster.FILE.read_text())) <= documented


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_confined(name: str) -> None:
    container = SERVICES[name]

    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert int(container["user"].partition(":")[0]) > 0
    assert container["mem_limit"]
    assert 0 < container["pids_limit"] <= 1024
    assert container["healthcheck"]["test"]
    assert container.get("ports", []) == PUBLISHED.get(name, [])


@pytest.mark.parametrize("name", ["gateway", "service"])
def test_both_have_the_settings_that_one_machine_has(name: str) -> None:
    first, second = (SERVICES[f"{name}-{number}"]["environment"] for number in (1, 2))
    known = {f"DESK_{field.upper()}" for field in (*Settings.model_fields, *CLIENT_SETTINGS)}
    alone = read_compose(**REQUIRED)["services"][name]["environment"]
    replaced = {"DESK_GRPC_CLIENT_CA", "DESK_CLIENT_TLS_CERT", "DESK_CLIENT_TLS_KEY"}

    assert first == second
    assert set(alone) - replaced <= set(first) <= known


def test_no_two_containers_share_a_volume() -> None:
    volumes = [
        volume.partition(":")[0]
        for container in SERVICES.values()
        for volume in container.get("volumes", ())
        if volume[0] not in "./"
    ]
    assert len(volumes) == len(set(volumes)) == 8


def test_the_nats_server_is_one_that_does_not_lose_messages() -> None:
    (image,) = re.findall(r"FROM (\S+)", SERVICES["nats-1"]["build"]["dockerfile_inline"])
    version = re.fullmatch(r"nats:(\d+)\.(\d+)\.\d+-alpine", image)

    assert version
    assert tuple(map(int, version.groups())) >= OLDEST_SERVER
    assert "sync_interval: always" in (ROOT / "deploy/nats/nats.conf").read_text()

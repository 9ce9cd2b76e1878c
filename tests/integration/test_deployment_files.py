"""docker-compose.yml and Dockerfile without Docker: the same commands, the same environment."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import grpc
import pytest
from desk.v1.session_pb2 import SessionState
from desk.v1.session_service_pb2 import GetSessionRequest
from desk.v1.session_service_pb2_grpc import SessionServiceStub

from command.cli import COMMANDS
from command.settings import Settings
from command.supervisor import STOP_WITHIN
from tests.support.compose import ROOT, Refused, read_compose
from tests.support.processes import DEADLINE, SDK_APP_ID, RunningDesk, run, start

pytestmark = pytest.mark.tools

TOKEN = "xxxxyyyy"
REQUIRED = {
    "DESK_SDK_APP_IDS": str(SDK_APP_ID),
    "DESK_CALLBACK_TOKENS_FILE": "/somewhere/tokens",
}
BEGIN = {
    "CallbackCommand": "Desk.SessionEventNotify",
    "SessionId": "a-session",
    "Event": "SessionBegin",
    "EventTime": 1725540020000,
}


@dataclass(frozen=True)
class Deployment:
    """The two containers as processes: on one directory, with ephemeral ports."""

    services: dict[str, Any]
    gateway: RunningDesk
    service: RunningDesk

    def healthcheck(self, name: str, **address: str) -> int:
        """Run a container's own health check, as the container would; return its exit code."""
        kind, program, *arguments = self.services[name]["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "desk")
        return run(*arguments, **{**self.services[name]["environment"], **address}).returncode


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{SDK_APP_ID}={TOKEN}\n")
    data_dir = tmp_path / "data"
    services = read_compose(**REQUIRED)["services"]
    with ExitStack() as stack:
        started = {
            name: stack.enter_context(
                start(
                    *services[name]["command"],
                    data_dir=data_dir,
                    **here(name, services, data_dir, tokens),
                )
            )
            for name in ("service", "gateway")
        }
        yield Deployment(services, **started)


def here(name: str, services: dict[str, Any], data_dir: Path, tokens: Path) -> dict[str, str]:
    """A container's environment, with what there is only inside it replaced."""
    inside = {
        "/data": str(data_dir),
        "0.0.0.0:8080": "127.0.0.1:0",
        "0.0.0.0:50051": "127.0.0.1:0",
        "/run/secrets/callback_tokens": str(tokens),
    }
    return {key: inside.get(value, value) for key, value in services[name]["environment"].items()}


def signature() -> dict[str, str]:
    now = str(int(time.time()))
    return {"RequestTime": now, "Sign": sha256((TOKEN + now).encode()).hexdigest()}


def test_a_callback_sent_to_the_gateway_container_is_read_back_from_the_service_container(
    deployment: Deployment,
) -> None:
    status, answer = deployment.gateway.post(BEGIN, **signature())
    assert (status, answer["ActionStatus"]) == (200, "OK")

    with grpc.insecure_channel(deployment.service.target) as channel:
        request = GetSessionRequest(session_id="a-session", min_revision=1)
        answered = SessionServiceStub(channel).GetSession(request, timeout=DEADLINE)

    assert answered.session.state == SessionState.SESSION_STATE_CHATBOT
    assert answered.header.revision == 1


def test_the_gateway_container_takes_the_tokens_from_the_secret(deployment: Deployment) -> None:
    status, answer = deployment.gateway.post(BEGIN)

    assert (status, answer["ActionStatus"]) == (403, "FAIL")


def test_the_health_checks_tell_a_running_container_from_a_stopped_one(
    deployment: Deployment,
) -> None:
    http = {"DESK_HTTP_LISTEN": "{}:{}".format(*deployment.gateway.http)}
    target = {"DESK_GRPC_LISTEN": deployment.service.target}
    assert deployment.healthcheck("gateway", **http) == 0
    assert deployment.healthcheck("service", **target) == 0

    assert deployment.gateway.terminate() == 0
    assert deployment.service.terminate() == 0
    assert deployment.healthcheck("gateway", **http) == 1
    assert deployment.healthcheck("service", **target) == 1


@pytest.mark.parametrize("missing", REQUIRED)
def test_compose_refuses_to_start_without_what_has_no_default(missing: str) -> None:
    variables = {name: value for name, value in REQUIRED.items() if name != missing}

    with pytest.raises(Refused, match=missing):
        read_compose(**variables)


def test_compose_accepts_the_file() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    schema = ("--builtin-schema", "vendor.compose-spec")
    checked = subprocess.run(
        [checker, *schema, ROOT / "docker-compose.yml"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("name", ["gateway", "service"])
def test_a_container_is_confined(name: str) -> None:
    container = read_compose(**REQUIRED)["services"][name]

    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["user"] == "10001:10001"
    assert all(port.startswith("127.0.0.1:") for port in container["ports"])


@pytest.mark.parametrize("name", ["gateway", "service"])
def test_a_container_is_given_the_time_it_needs_to_stop(name: str) -> None:
    container = read_compose(**REQUIRED)["services"][name]

    assert float(container["stop_grace_period"].removesuffix("s")) > STOP_WITHIN + 1


@pytest.mark.parametrize("name", ["gateway", "service"])
def test_every_variable_that_compose_sets_is_a_setting(name: str) -> None:
    environment = read_compose(**REQUIRED)["services"][name]["environment"]

    known = {f"DESK_{field.upper()}" for field in Settings.model_fields}
    assert set(environment) <= known


def test_no_token_is_in_the_environment_of_a_container() -> None:
    for container in read_compose(**REQUIRED)["services"].values():
        assert "DESK_CALLBACK_TOKENS" not in container["environment"]


def dockerfile(instruction: str) -> list[str]:
    lines = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text()).splitlines()
    return [line.partition(" ")[2] for line in lines if line.startswith(instruction + " ")]


def test_the_image_runs_the_desk_command_without_a_shell_between_it_and_signals() -> None:
    assert dockerfile("ENTRYPOINT") == ['["desk"]']
    assert dockerfile("STOPSIGNAL") == ["SIGTERM"]
    services = read_compose(**REQUIRED)["services"]
    assert all(container["command"][0] in COMMANDS for container in services.values())


def test_image_and_compose_agree_on_user_volume_and_ports() -> None:
    document = read_compose(**REQUIRED)
    services = document["services"]
    assert {container["user"] for container in services.values()} == set(dockerfile("USER"))
    assert dockerfile("VOLUME") == ["/data"]
    assert all(container["volumes"] == ["data:/data"] for container in services.values())
    inside = {port.rpartition(":")[2] for each in services.values() for port in each["ports"]}
    assert inside == set(dockerfile("EXPOSE")[0].split())


def test_what_the_image_copies_is_what_docker_is_given() -> None:
    given = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = {
        source.removeprefix("./")
        for line in dockerfile("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    }
    assert copied == given
    assert all((ROOT / name).exists() for name in given)


def test_the_image_is_based_on_one_exact_version_of_python() -> None:
    version = dockerfile("ARG")[0].partition("=")[2]

    assert re.fullmatch(r"3\.\d+\.\d+-slim-\w+", version)
    assert all(base.startswith("python:${PYTHON}") for base in dockerfile("FROM"))


def test_a_checkout_without_git_is_enough_to_build(tmp_path: Path) -> None:
    """Build both wheels as the image does, from nothing but what docker is given."""
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source = ROOT / line[1:]
            copy = shutil.copy if source.is_file() else partial(shutil.copytree, symlinks=True)
            copy(source, tmp_path / source.name)
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path / "dist")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "./client", "."],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("dist/desk_sessions-*.whl")
    (client,) = tmp_path.glob("dist/desk_sessions_client-*.whl")
    assert "desk/v1/session_pb2.py" in ZipFile(client).namelist()
    shutil.unpack_archive(wheel, tmp_path / "wheel", "zip")
    held = {path.relative_to(tmp_path / "wheel") for path in (tmp_path / "wheel").rglob("*")}
    expected = {
        "service/view/schema.sql",
        "journal/schema.sql",
    }
    assert {Path(name) for name in expected} <= held
    assert not any("tests" in path.parts for path in held)
    (metadata,) = (tmp_path / "wheel").glob("*.dist-info")
    assert "desk = command.cli:main" in (metadata / "entry_points.txt").read_text()
    assert (metadata / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()

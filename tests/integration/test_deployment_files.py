"""docker-compose.yml and Dockerfile without Docker: the same commands, the same environment."""

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.error import HTTPError
from zipfile import ZipFile

import pytest

from command.cli import COMMANDS
from command.settings import Settings
from command.settings_journal import JournalSettings
from command.settings_warnings import CLIENT_SETTINGS
from command.supervisor import STOP_WITHIN
from tests.support.certificates import Authority
from tests.support.compose import Project, Refused, read_compose
from tests.support.nginx import NGINX, confined
from tests.support.processes import DEADLINE, ROOT, SDK_APP_ID, run, start
from tests.support.waiting import eventually

pytestmark = pytest.mark.tools

TOKEN = "xxxxyyyy"
REQUIRED = {
    "DESK_SDK_APP_IDS": str(SDK_APP_ID),
    "DESK_CALLBACK_TOKENS_FILE": "/somewhere/tokens",
    "TLS_CERTIFICATE_FILE": "/somewhere/server.crt",
    "TLS_KEY_FILE": "/somewhere/server.key",
}
OURS = {"gateway": "10001:10001", "service": "10001:10001", "backup": "10001:10001"}
USERS = {**OURS, "console": "10001:10001", "nginx": "101:101", "nginx-grpc": "101:101"}
JOURNAL = {f"DESK_{field.upper()}" for field in JournalSettings.model_fields}
GATEWAY = JOURNAL | {
    "DESK_SDK_APP_IDS",
    "DESK_CALLBACK_TOKENS",
    "DESK_CALLBACK_TOKENS_FILE",
    "DESK_ALLOW_UNSIGNED",
    "DESK_HTTP_LISTEN",
    "DESK_HTTP_CONNECTIONS_PER_ADDRESS",
    "DESK_CALLBACK_PATH",
    "DESK_DATA_DIR",
    "DESK_METRICS_LISTEN",
    "DESK_HANG_TIMEOUT",
    "DESK_LOG_LEVEL",
    "DESK_LOG_FORMAT",
}
SERVICE = JOURNAL | {
    "DESK_SDK_APP_IDS",
    "DESK_GRPC_LISTEN",
    "DESK_GRPC_INSECURE",
    "DESK_GRPC_TLS_CERT",
    "DESK_GRPC_TLS_KEY",
    "DESK_GRPC_CLIENT_CA",
    "DESK_CLIENTS_FILE",
    "DESK_DATA_DIR",
    "DESK_RPC_WORKERS",
    "DESK_MAX_LAG",
    "DESK_SCRUB_RATE",
    "DESK_SERVICE_LEVEL",
    "DESK_SHORT_ABANDON",
    "DESK_TIME_ZONE",
    "DESK_RETENTION",
    "DESK_RETENTION_AT",
    "DESK_METRICS_LISTEN",
    "DESK_HANG_TIMEOUT",
    "DESK_LOG_LEVEL",
    "DESK_LOG_FORMAT",
}
CONSOLE = {
    "DESK_CONSOLE_LISTEN",
    "DESK_CONSOLE_PASSWORD_FILE",
    "DESK_CONSOLE_USER_HEADER",
    "DESK_CONSOLE_PROXIES",
    "DESK_METRICS_LISTEN",
    "DESK_TIME_ZONE",
}
"""The settings that each container reads."""

DECIDED = JOURNAL | {
    "DESK_CALLBACK_TOKENS",
    "DESK_HTTP_LISTEN",
    "DESK_HTTP_CONNECTIONS_PER_ADDRESS",
    "DESK_GRPC_LISTEN",
    "DESK_GRPC_INSECURE",
    "DESK_DATA_DIR",
    "DESK_METRICS_LISTEN",
    "DESK_CONSOLE_LISTEN",
    "DESK_LOG_FORMAT",
}
"""The settings that docker-compose.yml decides, whatever `.env` says."""

BEGIN = {"SessionId": "a-session", "Event": "SessionBegin", "EventTime": 1_725_540_020_000}

DESK = ("gateway", "service", "console")
"""The services that are commands of `desk`."""

STARTED = ("service", "gateway", "nginx")
"""The services that `docker compose up` starts."""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Run the file's services, each with its own command and environment."""
    authority = Authority(tmp_path)
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{SDK_APP_ID}={TOKEN}\n")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "console_passwords").write_text("ann:sees the board\n")
    variables = {
        **REQUIRED,
        "CONFIG_DIR": f"{tmp_path}/config",
        "DESK_CALLBACK_TOKENS_FILE": str(tokens),
        "TLS_CERTIFICATE_FILE": f"{tmp_path}/authority-nginx.pem",
        "TLS_KEY_FILE": f"{tmp_path}/authority-nginx.key",
        "TLS_CLIENTS_FILE": str(authority.file),
    }
    desk = [sys.executable, "-m", "command"]
    nginx = [str(NGINX), "-c", "/etc/nginx/nginx.conf", "-e", "/var/log/nginx/error.log"]
    made = Project(
        tmp_path,
        read_compose(**variables),
        programs={"desk-sessions": desk, "desk": desk, "nginx": nginx},
        folders=["/var/log/nginx"],
        rewrite={"/etc/nginx/nginx.conf": partial(confined, Path("/tmp"))},
    )
    for name in ("nginx", "nginx-grpc"):
        authority.issue(name, f"IP:{made.hosts[name]}")
    with ExitStack() as stack:
        stack.callback(made.stop_all)
        for name in STARTED:
            made.start(name)
        for name in STARTED:
            eventually(partial(made.is_healthy, name), within=DEADLINE)
        yield made


def simulate(project: Project, *options: str, token: str = TOKEN) -> str:
    """Send callbacks to nginx as Desk does; return the output."""
    done = run(
        *("simulate", f"https://{project.address('nginx', 443)}", "--sessions", "5", *options),
        SSL_CERT_FILE=str(project.directory / "authority.pem"),
        DESK_SIMULATE_TOKEN=token,
    )
    return done.stdout + done.stderr


@pytest.mark.skipif(not NGINX, reason="there is no nginx")
def test_what_desk_signs_and_sends_to_nginx_comes_out_of_the_service(project: Project) -> None:
    verified = simulate(project, "--verify", project.address("service", 50051))

    assert "no difference: 5 sessions" in verified
    assert "refused   403: " in simulate(project, token="another")


@pytest.mark.skipif(not NGINX, reason="there is no nginx")
def test_the_health_checks_tell_when_a_container_has_stopped(project: Project) -> None:
    for name in STARTED:
        assert project.stop(name) == 0
        assert not project.is_healthy(name)


@pytest.mark.skipif(not NGINX, reason="there is no nginx")
def test_the_console_shows_what_the_service_has_to_who_has_a_password(project: Project) -> None:
    simulate(project)
    project.start("console")
    eventually(partial(project.is_healthy, "console"), within=DEADLINE)
    page = f"http://{project.address('console', 8081)}/sessions.json"

    with pytest.raises(HTTPError, match="401"):
        urllib.request.urlopen(page, timeout=DEADLINE)
    password = {"Authorization": "Basic YW5uOnNlZXMgdGhlIGJvYXJk"}

    def shown() -> int:
        try:
            return len(json.loads(read(page, **password))["sessions"])
        except HTTPError:  # the service is not asked yet, or not in time
            return 0

    eventually(lambda: shown() == 5, within=DEADLINE)
    metrics = read(f"http://{project.address('console', 9464)}/metrics")
    assert 'process_start_time_seconds{process="console"}' in metrics
    assert project.stop("console") == 0
    assert not project.is_healthy("console")


def read(url: str, **headers: str) -> str:
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
        return str(answer.read().decode())


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


@pytest.mark.parametrize("name", USERS)
def test_a_container_is_confined(name: str) -> None:
    container = read_compose(**REQUIRED)["services"][name]

    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["user"] == USERS[name]
    assert container["mem_limit"]
    assert 0 < container["pids_limit"] <= 1024


def test_only_nginx_is_published_to_the_network() -> None:
    services = read_compose(**REQUIRED)["services"]

    assert "ports" not in services["gateway"]
    assert services["gateway"]["networks"] == ["callbacks"]
    assert "ports" not in services["backup"]
    assert services["nginx"]["ports"] == ["443:443"]
    assert all(port.startswith("127.0.0.1:") for port in services["service"]["ports"])
    assert all(port.startswith("127.0.0.1:") for port in services["console"]["ports"])
    assert services["nginx-grpc"]["profiles"] == ["grpc"]


@pytest.mark.parametrize("name", DESK)
def test_a_container_is_given_the_time_it_needs_to_stop(name: str) -> None:
    container = read_compose(**REQUIRED)["services"][name]

    assert float(container["stop_grace_period"].removesuffix("s")) > STOP_WITHIN + 1


@pytest.mark.parametrize("name", DESK)
def test_every_variable_that_compose_sets_is_a_setting(name: str) -> None:
    environment = read_compose(**REQUIRED)["services"][name]["environment"]

    known = {f"DESK_{field.upper()}" for field in (*Settings.model_fields, *CLIENT_SETTINGS)}
    assert set(environment) <= known


def test_every_setting_reaches_the_container_that_reads_it() -> None:
    given = {name: f"/{name}" for name in {*GATEWAY, *SERVICE, *CONSOLE} - DECIDED}
    services = read_compose(**REQUIRED | given)["services"]

    known = {f"DESK_{field.upper()}" for field in Settings.model_fields}
    assert known == GATEWAY | SERVICE | CONSOLE
    for container, reads in (("gateway", GATEWAY), ("service", SERVICE), ("console", CONSOLE)):
        environment = services[container]["environment"]
        passed_on = reads - DECIDED - {"DESK_CALLBACK_TOKENS_FILE"}
        assert {name: environment[name] for name in passed_on} == {
            name: given[name] for name in passed_on
        }
    tokens = read_compose(**REQUIRED | given)["secrets"]["callback_tokens"]["file"]
    assert tokens == given["DESK_CALLBACK_TOKENS_FILE"]


def test_every_variable_of_the_compose_file_is_in_the_example() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    example = (ROOT / ".env.example").read_text()
    documented = set(re.findall(r"^#? ?([A-Z_]+)=", example, flags=re.MULTILINE))

    assert set(re.findall(r"\$\{(\w+)", text)) <= documented


@pytest.mark.parametrize("name", ["nginx", "nginx-grpc"])
def test_nginx_finds_in_its_container_what_its_files_name(name: str) -> None:
    container = read_compose(**REQUIRED)["services"][name]
    mounted = {
        inside: (ROOT / outside).read_text()
        for outside, inside, mode in (volume.split(":") for volume in container["volumes"])
        if mode == "ro"
    }
    secrets = {secret["target"] for secret in container["secrets"]}

    files = re.findall(r"^\s*ssl_\w+\s+(/\S+);", "".join(mounted.values()), flags=re.MULTILINE)
    assert set(files) == secrets
    includes = re.findall(r"include (\w+)\.con\[f\];", mounted["/etc/nginx/nginx.conf"])
    assert {f"/etc/nginx/{file}.conf" for file in includes} >= set(mounted) - {
        "/etc/nginx/nginx.conf"
    }
    (port,) = container["ports"]
    assert f"listen {port.rpartition(':')[2]} ssl" in "".join(mounted.values())


def test_images_have_exact_versions_and_can_be_pinned_by_a_digest() -> None:
    services = read_compose(**REQUIRED)["services"]
    digest = "@sha256:" + "0" * 64
    pinned = read_compose(
        **REQUIRED, NGINX_IMAGE=f"nginx{digest}", PYTHON_TAG=f"3.13.5-slim-bookworm{digest}"
    )["services"]

    assert re.fullmatch(r"nginx:\d+\.\d+\.\d+-alpine", services["nginx"]["image"])
    for name in OURS:
        tag = services[name]["build"]["args"]["PYTHON"]
        assert dockerfile("ARG") == [f"PYTHON={tag}"]
        assert pinned[name]["build"]["args"]["PYTHON"].endswith(digest)
    assert pinned["nginx"]["image"] == f"nginx{digest}"


def test_the_backup_job_copies_a_journal_that_is_in_use(tmp_path: Path) -> None:
    backups, restored = tmp_path / "backups", tmp_path / "restored"
    backups.mkdir()
    restored.mkdir()
    job = read_compose(**REQUIRED)["services"]["backup"]
    assert job["volumes"][1].endswith(":/backup")
    data = tmp_path / "data"
    with start("serve", data_dir=data) as desk:
        assert desk.post(BEGIN)[0] == 200
        words = [str(backups) if word == "/backup" else word for word in job["command"]]
        assert run(*words, DESK_DATA_DIR=str(data)).returncode == 0
        assert desk.post(BEGIN | {"SessionId": "another"})[0] == 200
    (copy,) = backups.iterdir()
    assert copy.stat().st_mode & 0o777 == 0o600
    copy.rename(restored / "journal.db")

    with start("serve", data_dir=restored) as desk:
        arguments = ("sessions", "list", "--min-revision", "1", "--json")
        listed = run(*arguments, target=desk.target).stdout

    assert "a-session" in listed
    assert "another" not in listed


def test_no_token_is_in_the_environment_of_a_container() -> None:
    for container in read_compose(**REQUIRED)["services"].values():
        assert "DESK_CALLBACK_TOKENS" not in container.get("environment", {})


def test_what_the_installation_page_names_exists() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    example = (ROOT / ".env.example").read_text()
    files = set(re.findall(r"\bdeploy/[\w./*-]+\w", page))
    variables = set(re.findall(r"\b(?:DESK|TLS|PUBLISH|NGINX|PYTHON)_[A-Z_]*[A-Z]\b", page))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))

    assert files
    assert [name for name in files if not list(ROOT.glob(name))] == []
    assert [name for name in variables if f"{name}=" not in example] == []
    assert set(re.findall(r"\bmake ([a-z-]+)", page)) <= targets


def dockerfile(instruction: str) -> list[str]:
    lines = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text()).splitlines()
    return [line.partition(" ")[2] for line in lines if line.startswith(instruction + " ")]


def test_the_image_runs_the_desk_command_without_a_shell_between_it_and_signals() -> None:
    assert dockerfile("ENTRYPOINT") == ['["desk"]']
    assert dockerfile("STOPSIGNAL") == ["SIGTERM"]
    services = read_compose(**REQUIRED)["services"]
    assert all(services[name]["command"] == [name] for name in DESK)
    assert set(DESK) <= set(COMMANDS)


def test_image_and_compose_agree_on_user_volume_and_ports() -> None:
    services = read_compose(**REQUIRED)["services"]
    assert {services[name]["user"] for name in OURS} == set(dockerfile("USER"))
    assert dockerfile("VOLUME") == ["/data"]
    assert all("data:/data" in services[name]["volumes"] for name in OURS)
    listening = {
        services["gateway"]["environment"]["DESK_HTTP_LISTEN"],
        services["service"]["environment"]["DESK_GRPC_LISTEN"],
    }
    inside = {address.rpartition(":")[2] for address in listening}
    others = {services[name]["environment"]["DESK_METRICS_LISTEN"] for name in DESK}
    others.add(services["console"]["environment"]["DESK_CONSOLE_LISTEN"])
    assert inside | {each.rpartition(":")[2] for each in others} == set(
        dockerfile("EXPOSE")[0].split()
    )
    assert services["service"]["ports"][0].rpartition(":")[2] in inside
    names = (ROOT / "deploy" / "nginx" / "compose.conf").read_text()
    assert all(f"{name}:" in names for name in ("gateway", "service"))
    assert all(f":{port};" in names for port in inside)


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


def test_the_image_has_the_packages_of_constraints_and_no_others() -> None:
    installed = re.findall(r"pip install (.*?)(?: &&|$)", " ".join(dockerfile("RUN")))
    options = [set(each.split()) for each in installed]

    assert len(options) == 2
    assert {"--require-hashes", "constraints.txt"} <= options[0]
    assert {"--no-deps", "/wheels/*.whl"} <= options[1]


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
    for licence in ("LICENSE", "console/static/uplot-LICENSE.txt"):
        assert (metadata / "licenses" / licence).read_bytes() == (ROOT / licence).read_bytes()

"""Both distributions as users get them: wheels from `make wheels`, in environments of their own."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support.callbacks import NOON, body
from tests.support.consumer import assert_copies_resumes_and_starts_over
from tests.support.processes import ROOT, start
from tests.support.wheels import build, environment, pip

pytestmark = [pytest.mark.tools, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("dist"))


def installed(python: Path) -> dict[str, str]:
    """Return the version of each package, apart from those that every environment has."""
    listed = json.loads(pip(python, "list", "--format", "json"))
    versions = {each["name"].replace("_", "-"): each["version"] for each in listed}
    return {name: versions[name] for name in versions.keys() - {"pip", "setuptools"}}


def floors() -> list[str]:
    """Return the lowest versions that the client accepts, as requirements."""
    project = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]
    return [re.sub(r">=([\d.]+),.*", r"==\1", each) for each in project["dependencies"]]


@pytest.mark.parametrize("versions", ["lowest", "newest"])
def test_the_client_alone_copies_sessions_resumes_and_starts_over(
    wheels: dict[str, Path], tmp_path: Path, versions: str
) -> None:
    pinned = floors() if versions == "lowest" else []
    python = environment(tmp_path / "venv", wheels["desk_sessions_client"], *pinned)

    # typing-extensions is a requirement of grpcio itself, from one of its versions on
    assert installed(python).keys() - {"typing-extensions"} == {
        *("desk-sessions-client", "grpcio", "protobuf")
    }
    with start("serve", data_dir=tmp_path / "data") as desk:
        assert_copies_resumes_and_starts_over(desk, tmp_path / "sessions.db", python=python)


def test_the_clients_wheel_brings_the_protos_as_resources(
    wheels: dict[str, Path], tmp_path: Path
) -> None:
    ZipFile(wheels["desk_sessions_client"]).extractall(tmp_path)
    code = """
from importlib.resources import files
print(*sorted(file.name for file in files("desk.v1").iterdir() if file.suffix == ".proto"))
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == sorted(path.name for path in ROOT.glob("proto/desk/v1/*.proto"))


def test_both_wheels_together_are_the_whole_service(
    wheels: dict[str, Path], tmp_path: Path
) -> None:
    python = environment(tmp_path / "venv", *wheels.values())
    versions = installed(python)
    assert versions["desk-sessions"] == versions["desk-sessions-client"]

    def desk(*arguments: str) -> str:
        command = [python.with_name("desk"), *arguments]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    assert desk("--version") == f"desk, version {versions['desk-sessions']}\n"
    settings = {"PYTHONPATH": "", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    with start("serve", data_dir=tmp_path / "data", python=python, **settings) as serving:
        warned = serving.wait_for(lambda record: record["event"] == "not_traced")
        assert "pip install 'desk-sessions[otel]'" in warned["reason"]
        status, _ = serving.post(body("SessionBegin", NOON, session_id="a-session"))
        assert status == 200
        listed = desk("sessions", "list", "--min-revision", "1", "--target", serving.target)
        assert "a-session" in listed
        assert serving.terminate() == 0

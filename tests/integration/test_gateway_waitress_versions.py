"""The gateway's tests on the oldest and on the newest waitress that pyproject.toml lets in."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.tools

ROOT = Path(__file__).parents[2]
SUITE = {*ROOT.glob("tests/*/test_gateway_*.py")} - {Path(__file__)}

WHICH = "import importlib.metadata as m, waitress; print(m.version('waitress'), waitress.__file__)"


def allowed() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [Requirement(line) for line in project["dependencies"]]
    return str(next(line.specifier for line in lines if line.name == "waitress"))


def oldest() -> str:
    return next(part for part in allowed().split(",") if part.startswith(">=")).replace(">=", "==")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("specifier", [oldest(), allowed()], ids=["oldest", "newest"])
def test_the_gateway_keeps_its_promises_on(specifier: str, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    command = [*pip, "--no-deps", "--target", str(tmp_path), f"waitress{specifier}"]
    installed = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if installed.returncode:
        pytest.skip(f"waitress{specifier} cannot be installed: {installed.stderr[-200:]}")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    which = subprocess.run(
        [sys.executable, "-c", WHICH], env=environment, capture_output=True, text=True, check=True
    )
    found, file = which.stdout.split()
    assert file.startswith(str(tmp_path))
    if found == version("waitress"):
        return  # then all the other tests have shown it
    suite = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *sorted(SUITE)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert suite.returncode == 0, f"on waitress {found}:\n{suite.stdout[-5000:]}"
    assert " passed" in suite.stdout

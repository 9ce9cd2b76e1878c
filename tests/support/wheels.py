"""Both distributions as users get them, and environments to install them into."""

import subprocess
import sys
from pathlib import Path

from tests.support.processes import ROOT


def build(folder: Path) -> dict[str, Path]:
    """Build the wheels as `make wheels` does; by distribution."""
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    pip(sys.executable, "wheel", *options, ROOT / "client", ROOT)
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


def environment(folder: Path, *requirements: str | Path, python: str = sys.executable) -> Path:
    """Make an environment with these and what they need; return its Python."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    made = folder / "bin" / "python"
    pip(made, "install", *requirements)
    return made


def pip(python: str | Path, *arguments: str | Path) -> str:
    done = subprocess.run(
        [python, "-m", "pip", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

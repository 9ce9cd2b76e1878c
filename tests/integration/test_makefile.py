"""make on a machine as it may be: several Pythons, broken ones, a checkout that was moved.

The Pythons are shell scripts that behave as the real ones do towards make; what they install is a
log of what they were asked for. So no test needs the network or a minute.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.debian import program

pytestmark = pytest.mark.tools

ROOT = Path(__file__).parent.parent.parent

SHIM = "#!/bin/sh\necho 'pyenv: command not found' >&2; exit 127\n"
OLD = f"""#!/bin/sh
[ "$1" = -c ] && exec {sys.executable} -c "import sys; sys.version_info = (3, 10, 12); $2"
"""
USABLE = """#!/bin/sh
# make asks: are you usable (-c), make an environment (-m venv), install (-m pip).
case "$2" in
    venv) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python
          printf '#!/bin/sh\\necho "serving $DESK_HTTP_LISTEN"; exit 7\\n' > .venv/bin/desk
          chmod +x .venv/bin/desk; basename "$0" >> log;;
    tests.support.debian) exit 1;;  # asked whether a program is there
    pip)  [ ! -e offline ] || { echo 'ERROR: no network' >&2; exit 1; }; echo pip >> log;;
esac
"""


class Checkout:
    """A directory with the Makefile, and a PATH with the given Pythons and no others."""

    def __init__(self, directory: Path, **pythons: str) -> None:
        self.directory = directory / "checkout"
        self.directory.mkdir()
        shutil.copy(ROOT / "Makefile", self.directory)
        (self.directory / "pyproject.toml").touch()
        (self.directory / "client").mkdir()
        (self.directory / "client" / "pyproject.toml").touch()
        self.path = directory / "bin"
        self.path.mkdir()
        for tool in (
            "sh",
            "make",
            "cat",
            "rm",
            "cp",
            "mkdir",
            "chmod",
            "basename",
            "tee",
            "awk",
            "sed",
        ):
            self.path.joinpath(tool).symlink_to(shutil.which(tool) or tool)
        for name, script in pythons.items():
            self.path.joinpath(name.replace("_", ".")).write_text(script)
            self.path.joinpath(name.replace("_", ".")).chmod(0o755)

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", *arguments],
            cwd=self.directory,
            env={"PATH": str(self.path), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def log(self) -> list[str]:
        """Steps taken: `python3.x` for an environment made with it, `pip` for an installation."""
        log = self.directory / "log"
        return log.read_text().split() if log.exists() else []


def test_make_alone_lists_the_targets_and_does_nothing(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)

    done = checkout.make()

    assert done.returncode == 0
    assert {"serve", "test", "check"} <= set(done.stdout.split())
    assert checkout.log == []


def test_the_first_python_that_works_is_taken(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, python3_13=SHIM, python3_12=OLD, python3_11=USABLE, python3=OLD)

    checkout.make("serve")

    assert checkout.log == ["python3.11", "pip"]


def test_the_python_can_be_chosen(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, python3_13=USABLE, python3_12=USABLE)

    checkout.make("serve", "PYTHON=python3.12")

    assert checkout.log == ["python3.12", "pip"]


def test_without_a_usable_python_one_line_says_so(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, python3_13=SHIM, python3=OLD)

    done = checkout.make("serve")

    assert done.returncode != 0
    assert "no usable Python >= 3.11" in done.stderr.splitlines()[0]
    assert "pyenv" not in done.stderr


def test_serve_passes_settings_on_and_gives_back_the_exit_code(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, python3=USABLE)

    done = checkout.make("serve", DESK_HTTP_LISTEN="127.0.0.1:1234")

    assert "serving 127.0.0.1:1234" in done.stdout
    assert "Error 7" in done.stderr


def test_what_is_installed_is_not_installed_again(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, python3=USABLE)
    checkout.make("serve")

    checkout.make("serve")

    assert checkout.log == ["python3", "pip"]


def test_a_changed_pyproject_is_installed_into_the_same_environment(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, python3=USABLE)
    checkout.make("serve")
    stamp = checkout.directory / ".venv" / ".installed-runtime"
    later = stamp.stat().st_mtime + 10
    os.utime(checkout.directory / "pyproject.toml", (later, later))

    checkout.make("serve")

    assert checkout.log == ["python3", "pip", "pip"]


def test_a_failed_installation_is_seen_and_tried_again(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, python3=USABLE)
    offline = checkout.directory / "offline"
    offline.touch()
    failed = checkout.make("serve")
    assert failed.returncode != 0
    assert "ERROR: no network" in failed.stderr
    offline.unlink()

    checkout.make("serve")

    assert checkout.log == ["python3", "pip"]


def test_an_environment_whose_python_is_gone_is_made_again(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, python3=USABLE)
    checkout.make("serve")
    python = checkout.directory / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nonexistent/python")

    checkout.make("serve")

    assert checkout.log == ["python3", "pip", "python3", "pip"]


def test_an_environment_that_was_moved_is_made_again(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, python3=USABLE)
    checkout.make("serve")
    checkout.directory = checkout.directory.rename(tmp_path / "elsewhere")

    checkout.make("serve")

    assert checkout.log == ["python3", "pip", "python3", "pip"]


@pytest.mark.parametrize("jobs", ["-j1", "-j8"])
def test_serve_after_test_installs_nothing_more(tmp_path: Path, jobs: str) -> None:
    checkout = Checkout(tmp_path, python3=USABLE)

    checkout.make(jobs, "test", "serve")

    assert checkout.log == ["python3", "pip"]


def test_a_program_that_cannot_be_had_fails_the_tests_that_need_it(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, python3=USABLE)

    done = checkout.make("chromium")

    assert done.returncode != 0
    assert "chromium cannot be had from here; make test-tools WITHOUT=chromium" in done.stderr


def test_a_program_can_be_left_out(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, python3=USABLE)
    checkout.directory.joinpath("tools").mkdir()
    checkout.directory.joinpath("tools/stubs-requirements.txt").touch()

    steps = checkout.make("--dry-run", "test-tools", "WITHOUT=chromium nginx").stdout

    assert "Fetching promtool" in steps
    assert "Fetching nginx" not in steps
    assert "Fetching chromium" not in steps
    assert "DESK_TEST_WITHOUT='chromium nginx'" in steps


def test_a_test_is_skipped_only_where_its_program_was_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DESK_TEST_WITHOUT", raising=False)
    assert program("no-such-program", "chromium") is None
    monkeypatch.setenv("DESK_TEST_WITHOUT", "nginx chromium")
    assert program("no-such-program", "chromium") is None
    monkeypatch.setenv("DESK_TEST_WITHOUT", "nginx")
    with pytest.raises(RuntimeError, match="WITHOUT=chromium"):
        program("no-such-program", "chromium")

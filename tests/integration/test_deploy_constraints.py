"""constraints.txt: complete, exact, and known to be stale when it is."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import constraints

pytestmark = pytest.mark.tools

ROOT = Path(__file__).parents[2]


def pins() -> dict[str, str]:
    """Return the version by package."""
    pinned = re.findall(r"^([\w.-]+)==(\S+)", constraints.FILE.read_text(), flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pinned}


def test_every_requirement_is_pinned_to_a_version_that_it_allows() -> None:
    needed = [Requirement(each) for each in constraints.requirements()]

    assert needed
    for each in needed:
        assert each.specifier.contains(pins()[canonicalize_name(each.name)]), each


def test_what_the_requirements_require_is_pinned_as_well() -> None:
    missing = {
        needed.name
        for name in pins()
        for needed in map(Requirement, requires(name) or [])
        if (not needed.marker or needed.marker.evaluate({"extra": ""}))
        and canonicalize_name(needed.name) not in pins()
    }

    assert missing == set()


def test_every_line_is_a_pin_a_hash_or_a_comment() -> None:
    line = r"#.*|[a-z0-9.-]+==[\w.]+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?"
    lines = constraints.FILE.read_text().splitlines()
    odd = [each for each in lines if not re.fullmatch(line, each)]

    assert odd == []


@pytest.mark.parametrize(("changed", "code"), [(False, 0), (True, 1)])
def test_the_file_is_stale_when_a_requirement_has_changed(
    tmp_path: Path, changed: bool, code: int
) -> None:
    for name in ("tools/constraints.py", "constraints.txt", "client/pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    project = (ROOT / "pyproject.toml").read_text()
    asked = re.sub(r'"apsw>=[\d.]+,', '"apsw>=3.99,', project) if changed else project
    (tmp_path / "pyproject.toml").write_text(asked)

    checked = subprocess.run(
        [sys.executable, tmp_path / "tools" / "constraints.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (asked != project) is changed
    assert checked.returncode == code, checked.stderr
    assert ("make constraints" in checked.stdout) is changed

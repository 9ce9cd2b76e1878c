"""Programs of Debian's packages that tests run: installed, or fetched by make."""

import os
import shutil
import sys

from tests.support.processes import ROOT

FETCHED = ROOT / ".venv" / "debian"
"""The folder in which make unpacks packages."""

PROGRAMS = {
    "nginx": ("nginx",),
    "promtool": ("promtool", "prometheus"),
    "chromium": ("chromium", "chromedriver"),
}
"""The programs that each target of make fetches."""

_FOLDERS = ("usr/lib/chromium", "usr/bin", "usr/sbin")


def find(name: str) -> str | None:
    """Return where a program is; None if it is nowhere."""
    fetched = (str(FETCHED / folder) for folder in _FOLDERS)
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", *fetched])
    return shutil.which(name, path=path)


def program(name: str, target: str) -> str | None:
    """Return where a program is; None if it is nowhere, and tests that need it are skipped.

    Args:
        name: of the program.
        target: of make, which fetches it.

    Raises:
        RuntimeError: it is nowhere, and `make test-tools` was not told to do without it.
    """
    found, without = find(name), os.environ.get("DESK_TEST_WITHOUT")
    if found is None and without is not None and target not in without.split():
        raise RuntimeError(f"there is no {name}: see `make {target}`, or say WITHOUT={target}")
    return found


if __name__ == "__main__":
    sys.exit(not all(map(find, PROGRAMS[sys.argv[1]])))

"""The runtime folder of a supervisor and its children, gone when it ends.

Has the sockets of the metrics, and a file that names the children without a sign of life.
"""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_SILENT = "silent"


def write_silent(runtime: Path, names: Collection[str]) -> None:
    """Note which processes give no sign of life. On a full disk, leave the note as it is."""
    new = runtime / f"{_SILENT}.new"
    with suppress(OSError):
        new.write_text("\n".join(sorted(names)))
        os.replace(new, runtime / _SILENT)


def read_silent(runtime: Path) -> list[str]:
    """Return the names of the processes that give no sign of life."""
    try:
        return (runtime / _SILENT).read_text().split()
    except OSError:
        return []

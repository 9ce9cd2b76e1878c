"""Copies of the tree: other versions of the program, beside the one under test."""

import compileall
import shutil
from pathlib import Path

from tests.support.processes import ROOT

ROOMS = "callback client command gateway journal metrics proto service simulator storage tools docs"


def copy_tree(copy: Path) -> None:
    for room in ROOMS.split():
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))


def compile_tree(copy: Path) -> None:
    """Compile as an installation does: else each process would, at its start."""
    compileall.compile_dir(copy, quiet=1)


def settings(copy: Path) -> dict[str, str]:
    """Return the environment in which Python runs a copy."""
    return {"PYTHONPATH": f"{copy}:{copy / 'client'}"}

"""Files that others write and delete meanwhile."""

from pathlib import Path


def files_with(mark: bytes, folder: Path) -> list[str]:
    """Return the names of the files in a folder, and below it, that have these bytes."""
    return [path.name for path in sorted(folder.rglob("*")) if mark in _content(path)]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):  # it may have been deleted since
        return b""

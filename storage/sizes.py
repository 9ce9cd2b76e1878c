"""The space that a SQLite database takes on disk."""

from pathlib import Path


def size_of_database(path: Path) -> tuple[int, int]:
    """Return the bytes of the database file and of its WAL; 0 for a file that is not there."""
    return _size(path), _size(Path(f"{path}-wal"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

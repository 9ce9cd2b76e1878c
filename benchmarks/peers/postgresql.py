"""A PostgreSQL server on a socket file, with its default durability."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.work import child, directory

SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",  # no checkpoint within a run
    "max_connections": "50",
}


def missing() -> str:
    """Return the reason why PostgreSQL cannot be run; "" if it can."""
    return "" if _program("postgres") and _program("initdb") else "PostgreSQL is not installed"


@contextmanager
def running() -> Iterator[str]:
    """Run a server inside the block. Yield its `host`; user `postgres`, no password."""
    # In /tmp, because the name of a socket may have no more than 107 bytes.
    with directory("postgresql") as data, tempfile.TemporaryDirectory() as sockets:
        user = _give_away(data, Path(sockets))
        subprocess.run(
            [_program("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"],
            check=True,
            capture_output=True,
            timeout=60,
            user=user,
            cwd=data,
        )
        options = SETTINGS | {"unix_socket_directories": sockets}
        command = [_program("postgres"), "-D", str(data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with child(*command, is_ready=_is_ready, user=user):
            yield sockets


def rows(host: str, table: str) -> int:
    """Return the number of rows in a table."""

    import asyncpg

    async def ask() -> int:
        db = await asyncpg.connect(host=host, user="postgres", database="postgres")
        return int(await db.fetchval(f"SELECT count(*) FROM {table}"))

    return asyncio.run(ask())


def _is_ready(line: str) -> bool | None:
    return True if "ready to accept connections" in line else None


def _give_away(*directories: Path) -> str | None:
    """Give the directories to another user if this is root, as which PostgreSQL does not run."""
    if os.geteuid() != 0:
        return None
    for each in directories:
        shutil.chown(each, "postgres")
        each.parent.chmod(0o755)
    return "postgres"


def _program(name: str) -> str:
    found = shutil.which(name) or max(
        map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), default=""
    )
    return str(found)

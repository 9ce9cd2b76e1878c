"""A disk that fails or hangs on demand, below SQLite: an apsw VFS around the real one."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

NAME, REAL = "faulty", "unix"


class FaultyDisk(apsw.VFS):
    """A VFS that calls `fault` before each "read", "write" and "sync", and raises its errors.

    Attributes:
        synced: successful syncs so far.
        opened: names of the files opened so far, without their folders.
    """

    def __init__(self) -> None:
        super().__init__(NAME, REAL)
        self.fault: Callable[[str], None] = lambda _operation: None
        self.synced = 0
        self.opened: list[str] = []

    def heal(self) -> None:
        self.fault = lambda _operation: None

    def fail(self, operation: str, error: Exception) -> None:
        def fault(current: str) -> None:
            if current == operation:
                raise error

        self.fault = fault

    @contextmanager
    def hanging(self) -> Iterator[threading.Event]:
        """Make syncs hang until the end of the block; give an event that the first one sets."""
        hangs, released = threading.Event(), threading.Event()

        def fault(operation: str) -> None:
            if operation == "sync":
                hangs.set()
                released.wait()

        self.fault = fault
        try:
            yield hangs
        finally:
            self.heal()
            released.set()

    def xOpen(self, name: Any, flags: list[int]) -> "_File":  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self.opened.append(Path(path).name)
        return _File(self, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, disk: FaultyDisk, name: Any, flags: list[int]) -> None:
        super().__init__(REAL, name, flags)
        self._disk = disk

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        self._disk.fault("read")
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        self._disk.fault("write")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.fault("sync")
        super().xSync(flags)
        self._disk.synced += 1


@contextmanager
def faulty_disk() -> Iterator[FaultyDisk]:
    """Put a faulty disk under every connection that this process opens in the block."""
    disk = FaultyDisk()
    apsw.set_default_vfs(NAME)
    try:
        yield disk
    finally:
        apsw.set_default_vfs(REAL)
        disk.unregister()

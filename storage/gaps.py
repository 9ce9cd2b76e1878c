"""Clears the bytes between the cells of a database's pages.

`secure_delete` overwrites a row where it is deleted. Where SQLite has moved rows between pages, an
older copy may stay in the middle of a page, between the cell pointers and the cells. SQLite never
reads these bytes, so they can be written while others read. sqlite.org/fileformat2.html has the
format.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from struct import Struct
from time import monotonic

import apsw

PIECE = 256 * 1024
"""Bytes that are read at a time: apsw does not release the GIL meanwhile."""

FIRST = 2
"""The first page that is looked at: the one before it has the schema only."""

VACUUM = slice(52, 56)
"""Place in the first page of a number that is 0 if the file has no pointer map."""

LEAF, INTERIOR = 8, 12
"""Bytes of a b-tree page's header."""

HEADERS = {2: INTERIOR, 5: INTERIOR, 10: LEAF, 13: LEAF}
"""Types of b-tree pages: inner ones of indexes and tables, leaves of indexes and tables."""

COUNTS, COUNTS_AT = Struct(">HH"), 3
"""The number of cells and the begin of their content, and the place of both in the header."""

TEXT = 0x20
"""The least byte of a text. A deleted row leaves its cell pointer in the gap: two bytes, of which
the first is less in a page of up to 8 KiB."""

MAP_ENTRY = 5
"""Bytes that the pointer map has for a page."""

LOCK_BYTE = 1 << 30
"""Place of SQLite's locks in a file. The page there is not used."""

MAIN_FILE = apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE


class Pages:
    """The pages of a file that is open, a piece at a time.

    Attributes:
        piece: the number of pages in a piece.
    """

    def __init__(self, file: apsw.VFSFile, page_size: int) -> None:
        self._file = file
        self._size = page_size
        self.piece = PIECE // page_size
        self._has_map = any(file.xRead(VACUUM.stop, 0)[VACUUM])

    def pieces(self, first: int = FIRST) -> range:
        """Return the numbers of the first pages of all pieces, from a page on."""
        return range(first, self._count() + 1, self.piece)

    def left_in(self, first: int) -> list[int]:
        """Return the numbers of the pages with gaps to clear, in a piece from a page on."""
        return [number for number, _, _ in self._gaps(first, self.piece)]

    def clear(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            for _, begin, end in self._gaps(number, 1):
                self._file.xWrite(bytes(end - begin), begin)

    def sync(self) -> None:
        self._file.xSync(apsw.SQLITE_SYNC_NORMAL)

    def _gaps(self, first: int, most: int) -> Iterator[tuple[int, int, int]]:
        """Find gaps in some pages: the number of the page, begin and end in the file."""
        start, count = (first - 1) * self._size, self._count()
        data = self._file.xRead(max(0, min(most, count + 1 - first)) * self._size, start)
        for begin, end in gaps_in(data, self._size, headers(count)):
            number = first + begin // self._size
            if not self._has_map or map_page(number, self._size) != number:
                yield number, start + begin, start + end

    def _count(self) -> int:
        return self._file.xFileSize() // self._size


@contextmanager
def open_pages(path: str, page_size: int) -> Iterator[Pages]:
    """Open the pages of a file, until the block is left."""
    # By SQLite's own layer: a plain `close` would drop the locks of the whole process.
    file = apsw.VFSFile("unix", path, [MAIN_FILE, 0])
    try:
        yield Pages(file, page_size)
    finally:
        file.xClose()


def clear_gaps(path: str, page_size: int, first: int = FIRST, seconds: float = math.inf) -> int:
    """Clear the gaps of a file, for some seconds; return the page to go on with, 0 after the last.

    Nobody may write to the file meanwhile, and its WAL must be empty. All is on disk at the end.

    Args:
        path: of the file.
        page_size: of its pages.
        first: number of the first page.
        seconds: time after which to return.
    """
    until = monotonic() + seconds
    with open_pages(path, page_size) as pages:
        for start in pages.pieces(first):
            pages.clear(pages.left_in(start))
            if monotonic() >= until:
                return start + pages.piece
        pages.sync()
    return 0


def clear_beside_writers(
    pages: Pages, numbers: Iterable[int], connection: apsw.Connection, beside: apsw.Connection
) -> bool:
    """Clear the gaps of pages beside others; return False if that is not possible just now.

    A reader may prevent it. It is on disk once the commit that it makes is in the database.

    Args:
        pages: of the database.
        numbers: of the pages.
        connection: locks the database against writers.
        beside: another one, which moves the WAL meanwhile.
    """
    move_wal(beside)  # as much as possible before the lock
    connection.execute("BEGIN IMMEDIATE")
    is_moved = move_wal(beside)
    if is_moved:
        pages.clear(numbers)
        # A change of the first page: the others drop the pages in their memory.
        connection.pragma("user_version", connection.pragma("user_version"))
    connection.execute("COMMIT")
    return is_moved


def move_wal(connection: apsw.Connection) -> bool:
    """Move the WAL to the database as far as readers allow; return True if all of it is there."""
    with suppress(apsw.BusyError):  # another connection is doing so
        logged, moved = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        return logged == moved
    return False


def headers(count: int) -> dict[int, int]:
    """Return those of `HEADERS` that tell a b-tree page in a file of so many pages.

    Pages of other kinds begin with the number of a page, and so may have any byte up to the first
    one of the greatest number.
    """
    return {kind: size for kind, size in HEADERS.items() if kind > count >> 24}


def map_page(number: int, page_size: int) -> int:
    """Return the page of the pointer map that has a page; itself, if it is of the map."""
    mapped = page_size // MAP_ENTRY + 1
    page = (number - 2) // mapped * mapped + 2
    return page + 1 if page == LOCK_BYTE // page_size + 1 else page


def gaps_in(data: bytes, page_size: int, kinds: dict[int, int]) -> Iterator[tuple[int, int]]:
    """Find the gaps that may have a text in whole pages: the begin and the end of each in `data`.

    Args:
        data: the pages.
        page_size: bytes of each.
        kinds: `headers` of their file.
    """
    for start in range(0, len(data) - page_size + 1, page_size):
        header = kinds.get(data[start])
        if header is None:
            continue
        cells, content = COUNTS.unpack_from(data, start + COUNTS_AT)
        begin, end = start + header + 2 * cells, start + (content or 65536)
        if begin > end or end > start + page_size or data.startswith(bytes(end - begin), begin):
            continue
        if max(data[begin:end:2]) >= TEXT:
            yield begin, end

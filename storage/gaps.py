"""Clears the bytes between the cells of a database's pages.

`secure_delete` overwrites a row where it is deleted. Where SQLite has moved rows between pages, an
older copy may stay in the middle of a page, between the cell pointers and the cells. SQLite never
reads these bytes, so they can be written while others read. sqlite.org/fileformat2.html has the
format.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import apsw

HEADER = 100
"""Bytes before the b-tree in the first page."""

VACUUM = slice(52, 56)
"""Place in the first page of a number that is 0 if the file has no pointer map."""

LEAF, INTERIOR = 8, 12
"""Bytes of a b-tree page's header."""

HEADERS = {2: INTERIOR, 5: INTERIOR, 10: LEAF, 13: LEAF}
"""Types of b-tree pages. Other pages begin with the number of a page, and so with 0, as long as
there are fewer than `MOST_PAGES`; those of the pointer map begin with a small number."""

MAP_ENTRY = 5
"""Bytes that the pointer map has for a page."""

LOCK_BYTE = 1 << 30
"""Place of SQLite's locks in a file. The page there is not used."""

MOST_PAGES = 2 << 24

MAIN_FILE = apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE


class Pages:
    """The pages of a file that is open."""

    def __init__(self, file: apsw.VFSFile, page_size: int) -> None:
        self._file = file
        self._size = page_size
        self.count = file.xFileSize() // page_size
        if self.count >= MOST_PAGES:
            raise AssertionError("a file of so many pages has others that look like b-trees")
        self._has_map = bool(file.xRead(HEADER, 0)[VACUUM].strip(b"\0")) if self.count else False

    def left_in(self, number: int) -> tuple[int, int] | None:
        """Return the place of a gap that is not clear, from the begin of the file."""
        if self._has_map and number == map_page(number, self._size):
            return None
        start = (number - 1) * self._size
        page = self._file.xRead(self._size, start)
        begin, end = gap_of(page, HEADER if number == 1 else 0)
        return (start + begin, start + end) if page[begin:end].strip(b"\0") else None

    def clear(self, numbers: Iterable[int]) -> None:
        """Clear the gaps of pages."""
        for number in numbers:
            if left := self.left_in(number):
                self._file.xWrite(bytes(left[1] - left[0]), left[0])
        self._file.xSync(apsw.SQLITE_SYNC_NORMAL)


@contextmanager
def open_pages(path: str, page_size: int) -> Iterator[Pages]:
    """Open the pages of a file, until the block is left."""
    # By SQLite's own layer: a plain `close` would drop the locks of the whole process.
    file = apsw.VFSFile("unix", path, [MAIN_FILE, 0])
    try:
        yield Pages(file, page_size)
    finally:
        file.xClose()


def clear_gaps(path: str, page_size: int, first: int, most: int) -> int:
    """Clear the gaps of up to `most` pages; return the page to go on with, 0 after the last.

    Nobody may write to the file meanwhile, and its WAL must be empty.

    Args:
        path: of the file.
        page_size: of its pages.
        first: number of the first page, from 1.
        most: pages to look at.
    """
    with open_pages(path, page_size) as pages:
        after = min(first + most, pages.count + 1)
        pages.clear(range(first, after))
        return after if after <= pages.count else 0


def map_page(number: int, page_size: int) -> int:
    """Return the page of the pointer map that has a page; itself, if it is of the map."""
    mapped = page_size // MAP_ENTRY + 1
    page = (number - 2) // mapped * mapped + 2
    return page + 1 if page == LOCK_BYTE // page_size + 1 else page


def gap_of(page: bytes, at: int = 0) -> tuple[int, int]:
    """Return the begin and the end of the bytes that a b-tree page does not use.

    Args:
        page: its content; of another kind of page the gap is empty.
        at: the place of the b-tree's header in it.
    """
    size = HEADERS.get(page[at])
    if size is None:
        return 0, 0
    cells = int.from_bytes(page[at + 3 : at + 5])
    content = int.from_bytes(page[at + 5 : at + 7]) or 65536
    begin = at + size + 2 * cells
    return (begin, content) if begin <= content <= len(page) else (0, 0)

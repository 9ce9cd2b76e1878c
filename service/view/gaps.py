"""Clears the bytes between the cells of a view's pages.

`secure_delete` overwrites a row where it is deleted. Where SQLite has moved rows between pages, an
older copy may stay in the middle of a page, between the cell pointers and the cells. SQLite never
reads these bytes, so they can be written while others read. sqlite.org/fileformat2.html has the
format.
"""

import apsw

HEADER = 100
"""Bytes before the b-tree in the first page."""

LEAF, INTERIOR = 8, 12
"""Bytes of a b-tree page's header."""

HEADERS = {2: INTERIOR, 5: INTERIOR, 10: LEAF, 13: LEAF}
"""Types of b-tree pages. Other pages begin with the number of a page, and so with 0, as long as
there are fewer than `MOST_PAGES`."""

MOST_PAGES = 2 << 24

MAIN_FILE = apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE


def clear_gaps(path: str, page_size: int, first: int, most: int) -> int:
    """Clear the gaps of up to `most` pages; return the page to go on with, 0 after the last.

    Nobody may write to the file meanwhile, and its WAL must be empty.

    Args:
        path: of the file.
        page_size: of its pages.
        first: number of the first page, from 1.
        most: pages to look at.
    """
    # By SQLite's own layer: a plain `close` would drop the locks of the whole process.
    file = apsw.VFSFile("unix", path, [MAIN_FILE, 0])
    try:
        pages = file.xFileSize() // page_size
        if pages >= MOST_PAGES:
            raise AssertionError("a view of so many pages has others that look like b-trees")
        after = min(first + most, pages + 1)
        for number in range(first, after):
            start = (number - 1) * page_size
            page = file.xRead(page_size, start)
            begin, end = gap_of(page, HEADER if number == 1 else 0)
            if page[begin:end].strip(b"\0"):
                file.xWrite(bytes(end - begin), start + begin)
        file.xSync(apsw.SQLITE_SYNC_NORMAL)
    finally:
        file.xClose()
    return after if after <= pages else 0


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

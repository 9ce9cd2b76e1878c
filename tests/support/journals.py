"""Entries to append, and appending from many threads at once."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

from journal.entry import Appended, Entry, NewEntry
from journal.port import Journal
from tests.support.waiting import PATIENCE


def new_entry(name: object = "a", **changes: object) -> NewEntry:
    """Make an entry whose id follows from `name`: equal names are duplicates."""
    fields: dict[str, object] = {
        "id": blake2b(str(name).encode(), digest_size=16).digest(),
        "sdk_app_id": 1400000001,
        "received_at": 1_700_000_000_000,
        "request_id": f"request-{name}",
        "client_ip": "203.0.113.7",
        "platform": "Web",
        "body": b'{"name": "%s"}' % str(name).encode(),
    }
    return NewEntry(**(fields | changes))  # type: ignore[arg-type]


def append(journal: Journal, name: object = "a", **changes: object) -> Appended:
    return journal.append(new_entry(name, **changes), timeout=PATIENCE)


def append_together(journal: Journal, names: list[list[object]]) -> list[dict[object, Appended]]:
    """Append each list of names in a thread of its own, all starting together."""
    barrier = threading.Barrier(len(names))

    def work(mine: list[object]) -> dict[object, Appended]:
        barrier.wait(PATIENCE)
        return {name: append(journal, name) for name in mine}

    with ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(work, names))


def read_all(journal: Journal, *, limit: int = 1000) -> list[Entry]:
    return list(pages(journal, limit=limit))


def pages(journal: Journal, *, limit: int) -> Iterator[Entry]:
    after = 0
    while page := journal.read(after, limit=limit):
        yield from page
        after = page[-1].revision

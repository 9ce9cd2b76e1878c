"""Makes the view of a journal in large batches: `python -m benchmarks.projecting DATA_DIR`.

The outcome is the one that the follower would have, sooner: a page of an index that many sessions
share is written once per batch.
"""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from journal.entry import Entry
from journal.port import Journal
from journal.sqlite import SqliteJournal
from service.projection import Projection
from service.view.writer import ViewWriter

BATCH = 20_000


def main() -> None:
    """Make the view, up to the journal's head."""
    data_dir = Path(sys.argv[1])
    with (
        closing(SqliteJournal.open_reader(data_dir / "journal.db")) as journal,
        closing(ViewWriter(data_dir)) as writer,
    ):
        projection, head = Projection(writer, journal.id), journal.head()
        for batch in _batches(journal, head):
            more = batch[-1].revision < head
            behind_since = batch[-1].received_at if more else None
            projection.apply(batch, head=head, behind_since=behind_since)


def _batches(journal: Journal, head: int) -> Iterator[list[Entry]]:
    """All entries; a read of the journal returns some megabytes at most, so several are joined."""
    batch: list[Entry] = []
    reached = 0
    while reached < head:
        batch += journal.read(reached, limit=BATCH - len(batch))
        reached = batch[-1].revision
        if len(batch) == BATCH or reached == head:
            yield batch
            batch = []


if __name__ == "__main__":
    main()

"""The snapshots that an object store has, and the labels that identify them."""

from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Self

import msgspec
import zstandard

from journal.errors import JournalError
from journal.jetstream_objects import ObjectStore, StoredObject
from journal.port import JournalReader
from service.view import store
from service.view.errors import ViewError

FORMAT = "1"
"""Version of the stored format: a SQLite file in one zstd frame."""

FAILURES = (JournalError, ViewError, OSError, zstandard.ZstdError)
"""Errors of an attempt to publish or to load. The next attempt may succeed."""


class Label(msgspec.Struct, frozen=True):
    """The metadata of a snapshot's object: texts, as the object store wants them."""

    format: str
    fingerprint: str
    journal: str
    revision: str
    digest: str
    bytes: str


class Snapshot(NamedTuple):
    """A snapshot in the object store.

    Attributes:
        size: bytes of the view.
        stored_at: Unix time in seconds, by the clock of the process that stored it.
    """

    stored: StoredObject
    fingerprint: str
    journal_id: str
    revision: int
    digest: bytes
    size: int
    stored_at: float

    @classmethod
    def of(cls, stored: StoredObject) -> Self | None:
        """Read the label of an object; None if it is none of a format that is known."""
        try:
            label = msgspec.convert(stored.metadata, Label)
            numbers = int(label.revision), bytes.fromhex(label.digest), int(label.bytes)
            stored_at = datetime.fromisoformat(stored.mtime).timestamp()
        except (msgspec.ValidationError, ValueError, OverflowError):
            return None
        if label.format != FORMAT:
            return None
        return cls(stored, label.fingerprint, label.journal, *numbers, stored_at)


class Snapshots:
    """The snapshots of one journal's views.

    Attributes:
        objects: the object store; closed by `close`.
        journal: the journal of the views.
        view: path of this replica's view.
    """

    def __init__(self, objects: ObjectStore, journal: JournalReader, data_dir: Path) -> None:
        self.objects = objects
        self.journal = journal
        self.view = store.locate(data_dir)

    def newest_first(self) -> list[Snapshot]:
        """Return the snapshots of all versions, newest first."""
        found = [each for each in map(Snapshot.of, self.objects.all()) if each]
        return sorted(found, key=lambda each: (each.revision, each.stored_at), reverse=True)

    def of_this_version(self) -> list[Snapshot]:
        """Return the snapshots of this version and this journal, newest first."""
        own = (store.fingerprint(), self.journal.id)
        return [each for each in self.newest_first() if (each.fingerprint, each.journal_id) == own]

    def close(self) -> None:
        self.objects.close()

"""The view's progress: the one row of the table `progress`."""

from typing import Self

import msgspec

from service.view.digest import DIGEST_BYTES, DIGESTS
from service.view.errors import ViewUnavailable


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """The row of the table `progress`, without its key; see schema.sql."""

    journal_id: str
    fingerprint: str
    applied_revision: int = 0
    applied_id: bytes = b""
    head_revision: int = 0
    oldest_revision: int = 1
    begins_at: int = 1
    behind_since: int | None = None
    digest: bytes = bytes(DIGEST_BYTES)
    removed: bytes = bytes(DIGEST_BYTES)
    complete: bool = False
    repetitions: int = 0
    damaged: int = 0
    problem: str = ""

    def fits(self, total: int) -> bool:
        """Return True if `total` is the sum of the hashes of the feed's rows."""
        digest, removed = int.from_bytes(self.digest), int.from_bytes(self.removed)
        return (total + removed - digest) % DIGESTS == 0

    @classmethod
    def of_row(cls, row: object) -> Self:
        """Read a row of `LOAD`.

        Raises:
            ViewUnavailable: there is none, as in a new view before its first transaction.
        """
        if row is None:
            raise ViewUnavailable("the view is empty")
        return msgspec.convert(row, cls, strict=False)


LOAD = f"SELECT {', '.join(Progress.__struct_fields__)} FROM progress"  # noqa: S608

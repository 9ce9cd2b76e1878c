"""The digest of the feed: a sum, so that rows can be taken out of it."""

from hashlib import blake2b
from struct import Struct

DIGEST_BYTES = 32
DIGESTS = 1 << 8 * DIGEST_BYTES

_LENGTHS = Struct(">QI")
_EMPTY = blake2b(digest_size=DIGEST_BYTES)


def row_hash(position: int, record: bytes, session: bytes | None) -> int:
    """Hash a row of the feed. The feed's digest is the sum of these, mod `DIGESTS`."""
    digest = _EMPTY.copy()  # made faster than a new one
    digest.update(b"".join((_LENGTHS.pack(position, len(record)), record, session or b"")))
    return int.from_bytes(digest.digest())

"""The journal's entries: a callback exactly as it came, and its place in the log.

Knows nothing of HTTP, of storage or of the meaning of a callback. An engine stores the fields of
`NewEntry` under their names, in their order.
"""

from enum import IntEnum

import msgspec
from msgspec.structs import asdict

ID_BYTES = 16
"""Length of an entry's id."""

MAX_INTEGER = 2**63 - 1
"""The largest that SQLite and protobuf can hold."""


DAMAGED = "the entry is damaged: its id is not the digest of its app and body"
"""The problem of an entry that is not the one that was appended."""


class Kind(IntEnum):
    """Purpose of an entry. The numbers are stored: add to them, never change one."""

    CALLBACK = 1
    """A callback, as it came."""
    FORGET = 2
    """Sessions to forget; see `journal.forgetting`."""


class NewEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A callback that passed authentication, ready to be appended.

    Attributes:
        id: identity, 16 bytes; see `callback.decoder.identify`.
        sdk_app_id: the app it was sent for, 1 to 2^63 - 1.
        received_at: Unix time in milliseconds at which its first delivery arrived.
        request_id: Desk's `RequestID`, or "".
        client_ip: Desk's `ClientIP`, or "".
        platform: Desk's `OptPlatform`, or "".
        body: the HTTP body, byte for byte.
        kind: a `Kind`; the entry of a later version may have a number that is none.
    """

    id: bytes
    sdk_app_id: int
    received_at: int
    request_id: str = ""
    client_ip: str = ""
    platform: str = ""
    body: bytes
    kind: int = Kind.CALLBACK


class Entry(NewEntry, frozen=True, kw_only=True, gc=False):
    """An entry as the journal holds it.

    Attributes:
        revision: its number, at least 1. Later entries have higher numbers; there may be gaps.
    """

    revision: int


class Appended(msgspec.Struct, frozen=True, gc=False):
    """The outcome of an append.

    Attributes:
        revision: of the entry; of a duplicate, of the first copy. 0: not known yet, the entry is
            durable in a spool.
        duplicate: True if the id was there already and nothing was added.
    """

    revision: int
    duplicate: bool


def numbered(entry: NewEntry, revision: int) -> Entry:
    """Return `entry` as the journal holds it at `revision`."""
    return Entry(revision=revision, **asdict(entry))


def unnumbered(entry: Entry) -> NewEntry:
    """Return `entry` as it was before it was appended."""
    return NewEntry(**{name: getattr(entry, name) for name in NewEntry.__struct_fields__})


def is_storable(entry: NewEntry) -> bool:
    """Return True if every engine can store an entry's id and numbers."""
    return (
        len(entry.id) == ID_BYTES
        and 0 < entry.sdk_app_id <= MAX_INTEGER
        and 0 <= entry.received_at <= MAX_INTEGER
        and 0 < entry.kind <= MAX_INTEGER
    )


def validate(entry: NewEntry) -> None:
    """Refuse an entry that no engine could store: it would fail the batch it is in.

    Raises:
        ValueError: the id has another length, a number is out of range, a text is not Unicode, or
            the kind is none of ours.
    """
    if not is_storable(entry):
        raise ValueError(f"an entry's id has not {ID_BYTES} bytes, or a number is out of range")
    Kind(entry.kind)
    for text in (entry.request_id, entry.client_ip, entry.platform):
        text.encode()  # a lone surrogate raises UnicodeEncodeError, which is a ValueError

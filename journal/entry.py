"""What the journal keeps: a callback exactly as it came, and where it stands.

Knows nothing of HTTP, of storage or of what a callback means.
"""

import msgspec

ID_BYTES = 16
"""Length of an entry's id."""

MAX_INTEGER = 2**63 - 1
"""The largest that SQLite and protobuf can hold."""


class NewEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A callback that passed authentication, ready to be appended.

    Attributes:
        id: identity, 16 bytes; see `journal.callback.identify`.
        sdk_app_id: the app it was sent for, 1 to 2^63 - 1.
        received_at: Unix time in milliseconds at which its first delivery arrived.
        request_id: Desk's `RequestID`, or "".
        client_ip: Desk's `ClientIP`, or "".
        platform: Desk's `OptPlatform`, or "".
        body: the HTTP body, byte for byte.
    """

    id: bytes
    sdk_app_id: int
    received_at: int
    request_id: str = ""
    client_ip: str = ""
    platform: str = ""
    body: bytes


class Entry(NewEntry, frozen=True, kw_only=True, gc=False):
    """An entry as the journal holds it.

    Attributes:
        revision: its number: 1, 2, 3 … without gaps, in the order of appending.
    """

    revision: int


class Appended(msgspec.Struct, frozen=True, gc=False):
    """The outcome of an append.

    Attributes:
        revision: where the entry stands; of a duplicate, where the first copy stands.
        duplicate: True if the id was there already and nothing was added.
    """

    revision: int
    duplicate: bool


def numbered(entry: NewEntry, revision: int) -> Entry:
    """Return `entry` as the journal holds it at `revision`."""
    return Entry(
        revision=revision,
        id=entry.id,
        sdk_app_id=entry.sdk_app_id,
        received_at=entry.received_at,
        request_id=entry.request_id,
        client_ip=entry.client_ip,
        platform=entry.platform,
        body=entry.body,
    )


def validate(entry: NewEntry) -> None:
    """Refuse what no engine could store, before it can spoil a batch that others share.

    Raises:
        ValueError: the id has another length, a number is out of range, or a text is not Unicode.
    """
    if len(entry.id) != ID_BYTES:
        raise ValueError(f"an entry's id has {ID_BYTES} bytes")
    if not (0 < entry.sdk_app_id <= MAX_INTEGER and 0 <= entry.received_at <= MAX_INTEGER):
        raise ValueError("an entry's number is out of range")
    for text in (entry.request_id, entry.client_ip, entry.platform):
        text.encode()  # a lone surrogate raises UnicodeEncodeError, which is a ValueError

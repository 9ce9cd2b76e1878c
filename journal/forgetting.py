"""FORGET entries: lists of what is removed for good at a revision of the journal.

An entry lists sessions of one app, and revisions of malformed callbacks: these have no session.
It holds no other personal data. Its body is JSON, so that `sqlite3` and `nats` show it.
"""

from collections.abc import Sequence
from hashlib import blake2b
from secrets import token_hex

import msgspec

from journal.entry import ID_BYTES, MAX_INTEGER, Kind, NewEntry

MAX_FORGOTTEN = 1_000
"""Sessions and revisions that one entry may list, together."""


class ForgetList(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a FORGET entry.

    Attributes:
        session_ids: sessions of the entry's app, each wholly forgotten up to the entry's revision.
        revisions: malformed callbacks, each older than the entry.
        up_to: the highest revision of a record that is forgotten, as far as the asker's view knew.
            0: not known, any before the entry. It decides `oldest_revision` of every view: one that
            is built after the deletion cannot know which revisions there were.
        nonce: makes two entries with the same lists different: a session may come back, and be
            forgotten again.
    """

    session_ids: tuple[str, ...] = ()
    revisions: tuple[int, ...] = ()
    up_to: int = 0
    nonce: str = msgspec.field(default_factory=lambda: token_hex(8))


_DECODER = msgspec.json.Decoder(ForgetList)


def forget_entry(
    sdk_app_id: int,
    received_at: int,
    *,
    session_ids: Sequence[str] = (),
    revisions: Sequence[int] = (),
    up_to: int = 0,
) -> NewEntry:
    """Return an entry that forgets sessions of an app and malformed callbacks; see `ForgetList`.

    Raises:
        ValueError: nothing is listed, too much is, or it can be no session or revision.
    """
    listed = ForgetList(
        session_ids=tuple(dict.fromkeys(session_ids)),
        revisions=tuple(dict.fromkeys(revisions)),
        up_to=up_to,
    )
    _check(listed)
    body = msgspec.json.encode(listed)
    return NewEntry(
        id=_identity(sdk_app_id, body),
        sdk_app_id=sdk_app_id,
        received_at=received_at,
        body=body,
        kind=Kind.FORGET,
    )


def forget_list_of(entry: NewEntry) -> ForgetList:
    """Return the lists of a FORGET entry.

    Raises:
        ValueError: the entry is not as `forget_entry` made it. It must not be applied.
    """
    if _identity(entry.sdk_app_id, entry.body) != entry.id:
        raise ValueError("the id is not the digest of app and body")
    listed = _DECODER.decode(entry.body)  # its errors are ValueErrors
    _check(listed)
    return listed


def _check(listed: ForgetList) -> None:
    count = len(listed.session_ids) + len(listed.revisions)
    if not 0 < count <= MAX_FORGOTTEN:
        raise ValueError(f"1 to {MAX_FORGOTTEN} sessions and revisions may be listed, not {count}")
    if not all(listed.session_ids):
        raise ValueError("a session's id is empty")
    if not (
        all(0 < revision <= MAX_INTEGER for revision in listed.revisions)
        and 0 <= listed.up_to <= MAX_INTEGER
    ):
        raise ValueError("a revision is out of range")


def _identity(sdk_app_id: int, body: bytes) -> bytes:
    return blake2b(b"%d:%b" % (sdk_app_id, body), digest_size=ID_BYTES).digest()

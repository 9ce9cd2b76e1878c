"""Entries as messages of a JetStream stream: subject, headers, payload.

The `nats` command shows them as they are. Knows no connection.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from journal.entry import ID_BYTES, Entry, Kind, NewEntry, is_storable

ID = "Nats-Msg-Id"
"""The header by which JetStream recognises a repetition."""

RECEIVED_AT = "Desk-Received-At"
REQUEST_ID = "Desk-Request-Id"
CLIENT_IP = "Desk-Client-Ip"
PLATFORM = "Desk-Platform"
KIND = "Desk-Kind"
"""Headers of the other fields. An empty text has none, nor has the kind of a callback."""


FORGET = "forget"
"""The last token of the subject of a FORGET entry."""


class _Named(msgspec.Struct, rename="pascal"):
    session_id: str = ""


_CALLBACK, _FORGET = Kind.CALLBACK, Kind.FORGET  # Enum members are slow to look up in Python 3.11
_NAMED = msgspec.json.Decoder(_Named)


def subject_of(stream: str, entry: NewEntry) -> str:
    """Return `<stream>.<app>.<2 hex digits>`; all callbacks of a session have the same digits.

    A stream can be divided by them into several, each with whole sessions. A FORGET entry has
    `forget` instead of the digits.
    """
    if entry.kind == _FORGET:
        return f"{stream}.{entry.sdk_app_id}.{FORGET}"
    try:
        session = _NAMED.decode(entry.body).session_id
    except (ValueError, RecursionError):  # malformed: of no session
        session = ""
    part = blake2b(session.encode(errors="replace"), digest_size=1).hexdigest()
    return f"{stream}.{entry.sdk_app_id}.{part}"


def headers_of(entry: NewEntry) -> dict[str, str]:
    """Return an entry's fields, without its app and body."""
    headers = {ID: entry.id.hex(), RECEIVED_AT: str(entry.received_at)}
    for header, text in (
        (REQUEST_ID, entry.request_id),
        (CLIENT_IP, entry.client_ip),
        (PLATFORM, entry.platform),
    ):
        if text:
            headers[header] = _escaped(text)
    if entry.kind != _CALLBACK:
        headers[KIND] = str(entry.kind)
    return headers


def entry_of(revision: int, subject: str, headers: Mapping[str, Any], body: bytes) -> Entry:
    """Read a message. One that was not published by this program becomes a damaged entry."""
    get = headers.get
    try:
        entry = Entry(
            revision=revision,
            id=bytes.fromhex(headers[ID]),
            sdk_app_id=int(subject.split(".")[1]),
            received_at=int(headers[RECEIVED_AT]),
            request_id=_unescaped(get(REQUEST_ID, "")),
            client_ip=_unescaped(get(CLIENT_IP, "")),
            platform=_unescaped(get(PLATFORM, "")),
            body=body,
            kind=int(get(KIND, _CALLBACK)),
        )
        if is_storable(entry):
            return entry
    except (LookupError, ValueError):
        pass
    # With an id of its own it is no repetition of another one.
    own = revision.to_bytes(ID_BYTES)
    return Entry(revision=revision, id=own, sdk_app_id=1, received_at=0, body=body)


def _escaped(text: str) -> str:
    """Escape what a header cannot hold, as in a URL; most texts stay as they are."""
    plain = text.isascii() and text.isprintable() and "%" not in text and text == text.strip()
    return text if plain else quote(text)


def _unescaped(text: str) -> str:
    if not text.isascii():
        raise ValueError("a header is not as it was written")
    return unquote(text) if "%" in text else text

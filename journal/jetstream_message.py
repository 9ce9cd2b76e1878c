"""Entries as messages of a JetStream stream: subject, headers, payload.

The `nats` command shows them as they are. Knows no connection.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from journal.entry import Entry, Kind, NewEntry

ID = "Nats-Msg-Id"
"""The header by which JetStream recognises a repetition."""

RECEIVED_AT = "Desk-Received-At"
KIND = "Desk-Kind"
TEXTS = {
    "request_id": "Desk-Request-Id",
    "client_ip": "Desk-Client-Ip",
    "platform": "Desk-Platform",
}
"""Headers of the fields that are texts. An empty one has no header."""


class _Named(msgspec.Struct, rename="pascal"):
    session_id: str = ""


_NAMED = msgspec.json.Decoder(_Named)


def subject_of(stream: str, entry: NewEntry) -> str:
    """Return `<stream>.<app>.<2 hex digits>`; all callbacks of a session have the same digits.

    A stream can be divided by them into several, each with whole sessions.
    """
    try:
        session = _NAMED.decode(entry.body).session_id
    except (ValueError, RecursionError):  # malformed: of no session
        session = ""
    part = blake2b(session.encode(errors="replace"), digest_size=1).hexdigest()
    return f"{stream}.{entry.sdk_app_id}.{part}"


def headers_of(entry: NewEntry) -> dict[str, str]:
    """Return an entry's fields, without its app and body."""
    headers = {ID: entry.id.hex(), RECEIVED_AT: str(entry.received_at)}
    for field, header in TEXTS.items():
        if text := getattr(entry, field):
            headers[header] = _escaped(text)
    if entry.kind != Kind.CALLBACK:
        headers[KIND] = str(entry.kind)
    return headers


def entry_of(revision: int, subject: str, headers: Mapping[str, Any], body: bytes) -> Entry:
    """Read a message. One that was not published by this program becomes a damaged entry."""
    get = headers.get
    try:
        return Entry(
            revision=revision,
            id=bytes.fromhex(headers[ID]),
            sdk_app_id=int(subject.split(".")[1]),
            received_at=int(headers[RECEIVED_AT]),
            body=body,
            kind=int(get(KIND, Kind.CALLBACK)),
            **{field: _unescaped(get(header, "")) for field, header in TEXTS.items()},
        )
    except (LookupError, ValueError):
        return Entry(revision=revision, id=bytes(16), sdk_app_id=1, received_at=0, body=body)


def _escaped(text: str) -> str:
    """Escape what a header cannot hold, as in a URL; most texts stay as they are."""
    plain = text.isascii() and text.isprintable() and "%" not in text and text == text.strip()
    return text if plain else quote(text)


def _unescaped(text: str) -> str:
    return unquote(text) if "%" in text else text

"""The clients file: who may call the API, for which apps, with which scopes, and by which proof.

A key is `desk_<id>_<43 characters of base62><6 of checksum>`. The file has only its SHA-256: with
256 random bits a slow hash adds nothing. Prefix and checksum let secret scanners find keys.
"""

import secrets
import tomllib
from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from functools import partial
from hashlib import sha256
from pathlib import Path
from re import compile as pattern
from typing import Annotated, Any, Literal
from zlib import crc32

import msgspec
from msgspec import Meta

from storage.changes import FileProblem, Followed, read_file

LOOK_EVERY = 0.1
"""Seconds between two looks at the file, at least: a revocation has effect within a second."""

MAX_KEYS = 3
"""Keys of a client: the present one, the next one, and one to spare."""

MAX_APPS = 100
"""Apps of a client that is not allowed all: as many as a filter may have."""

Scope = Literal["sessions.read", "feed.read", "messages.read", "status.read", "admin"]

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM, _CHECKSUM = 43, 6
_KEY = pattern(rf"desk_([a-z0-9]{{1,32}})_[0-9A-Za-z]{{{_RANDOM + _CHECKSUM}}}")


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key, without the key.

    Attributes:
        id: the part after `desk_`; unique in the file.
        sha256: of the whole key, in lower-case hex.
        not_after: the last day on which it is valid, in UTC; None = no end.
    """

    id: Annotated[str, Meta(pattern="^[a-z0-9]{1,32}$")]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    not_after: date | None = None

    def end(self) -> float | None:
        """Return the Unix time from which the key is not valid any more."""
        return end_of(self.not_after) if self.not_after else None


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One client.

    Attributes:
        name: for logs; unique in the file.
        apps: the SDKAppIDs that it may read; `*` = all.
        scopes: what it may do.
        san: URIs or DNS names of its certificates; the common name of one that has neither.
        keys: at most three.
    """

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    apps: (
        Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(min_length=1, max_length=MAX_APPS)]
        | Literal["*"]
    )
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)]
    san: tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...] = ()
    keys: Annotated[tuple[Key, ...], Meta(max_length=MAX_KEYS)] = ()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    client: tuple[Client, ...] = ()


def end_of(day: date) -> float:
    """Return the Unix time at which a day ends in UTC."""
    return datetime.combine(day, time(), UTC).timestamp() + 86_400  # 9999-12-31 has no next day


def new_key(key_id: str) -> str:
    body = f"desk_{key_id}_{_base62(secrets.randbits(256), _RANDOM)}"
    return body + _checksum(body)


def new_key_id() -> str:
    return secrets.token_hex(4)


def id_of(key: str) -> str | None:
    """Return the id in a key; None if it is no key, by its form or its checksum."""
    match = _KEY.fullmatch(key)
    if match is None or _checksum(key[:-_CHECKSUM]) != key[-_CHECKSUM:]:
        return None
    return match[1]


def digest_of(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def _checksum(text: str) -> str:
    return _base62(crc32(text.encode()), _CHECKSUM)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


def read_text(path: Path) -> str:
    """Read a clients file; raises FileProblem if it is missing, too large or no text."""
    try:
        return read_file(path).decode()
    except UnicodeDecodeError:
        raise FileProblem(f"{path} is not UTF-8") from None


def parse(text: str) -> tuple[Client, ...]:
    """Read the clients in the text of a file.

    Raises:
        FileProblem: it is wrong; the message says where.
    """
    try:
        clients = msgspec.convert(tomllib.loads(text), type=_File).client
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise FileProblem(" ".join(str(error).split())[:300]) from None
    _check_unique("name", (client.name for client in clients))
    _check_unique("san", (name for client in clients for name in client.san))
    _check_unique("key id", (key.id for client in clients for key in client.keys))
    _check_unique("sha256", (key.sha256 for client in clients for key in client.keys))
    return clients


def read_clients(path: Path) -> tuple[Client, ...]:
    """Read a clients file; raises FileProblem with the file's name."""
    text = read_text(path)
    try:
        return parse(text)
    except FileProblem as problem:
        raise FileProblem(f"{path}: {problem}") from None


def _check_unique(what: str, values: Iterable[str]) -> None:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise FileProblem(f"two clients or keys have the {what} {value[:64]!r}")
        seen.add(value)


Clients = Followed[tuple[Client, ...]]
"""The clients in force, which follow their file."""


def follow_clients(path: Path, *, period: float = LOOK_EVERY) -> Clients:
    """Read a clients file, and follow it; raises FileProblem if it cannot be used."""
    return Followed("clients", partial(read_clients, path), [path], period=period)

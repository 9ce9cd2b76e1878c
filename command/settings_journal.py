"""Settings of the journal, and of NATS."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ValidationInfo
from pydantic import field_validator as check
from pydantic_settings import BaseSettings

from command.address import Address
from command.values import number, require_all_or_none, shown

SCHEME = "nats://"

MAX_REPLICAS = 5
"""Limit of JetStream."""

MAX_SNAPSHOT_HOURS = 7 * 24
"""Hours: half of the time after which the object store deletes a snapshot."""

MIN_BYTES, MAX_BYTES = 1024**2, 2**63 - 1


class JournalSettings(BaseSettings):
    """The settings of the journal; a part of `Settings`.

    Attributes:
        journal: `sqlite`, a file in the data directory; or nats:// and the servers' addresses,
            separated by commas.
        nats_stream: name of the stream.
        nats_replicas: servers that must have a copy of each callback.
        nats_max_bytes: bytes that the stream may take.
        nats_creds: file of a user's JWT and seed.
        nats_nkey: file of a user's seed.
        nats_user: name of a user.
        nats_password_file: file of the user's password.
        nats_tls_ca: authorities whose certificates NATS may have; None: the system's.
        nats_tls_cert: certificate to show to NATS.
        nats_tls_key: its key.
        spool: folder for callbacks that NATS has not confirmed, within the data directory or
            absolute; `off`: they are refused.
        spool_max_bytes: bytes that the spool may take.
        snapshot_hours: hours after which a snapshot of the view is published again; 0: never.
    """

    journal: str = "sqlite"
    nats_stream: str = "desk"
    nats_replicas: Annotated[int, number(1, MAX_REPLICAS)] = 1
    nats_max_bytes: Annotated[int, number(MIN_BYTES, MAX_BYTES)] = 10 * 1024**3
    nats_creds: Path | None = None
    nats_nkey: Path | None = None
    nats_user: str | None = None
    nats_password_file: Path | None = None
    nats_tls_ca: Path | None = None
    nats_tls_cert: Path | None = None
    nats_tls_key: Path | None = None
    spool: Literal["off"] | Path = Path("spool")
    spool_max_bytes: Annotated[int, number(MIN_BYTES, MAX_BYTES)] = 10 * 1024**3
    snapshot_hours: Annotated[int, number(0, MAX_SNAPSHOT_HOURS)] = 6

    @property
    def is_on_nats(self) -> bool:
        return self.journal.startswith(SCHEME)

    @check("journal")
    @classmethod
    def _available_engine(cls, journal: str) -> str:
        if journal.startswith(SCHEME):
            _servers(journal)
        elif journal != "sqlite":
            raise ValueError(f"must be sqlite or nats://host:port, not {shown(journal)}")
        return journal

    @check("nats_stream")
    @classmethod
    def _usable_name(cls, name: str) -> str:
        if not re.fullmatch("[A-Za-z0-9_-]{1,32}", name):
            raise ValueError(f"must be 1 to 32 letters, digits, _ or -, not {shown(name)}")
        return name

    @check("nats_nkey", "nats_user")
    @classmethod
    def _one_identity(cls, value: Path | str | None, info: ValidationInfo) -> Path | str | None:
        others = [name for name in ("nats_creds", "nats_nkey") if info.data.get(name)]
        if value and others:
            raise ValueError(f"is set and so is DESK_{others[0].upper()}; set one of them")
        return value

    @check("nats_password_file")
    @classmethod
    def _with_user(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        require_all_or_none(DESK_NATS_USER=info.data.get("nats_user"), DESK_NATS_PASSWORD_FILE=file)
        return file

    @check("nats_tls_key")
    @classmethod
    def _with_cert(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        cert = info.data.get("nats_tls_cert")
        require_all_or_none(DESK_NATS_TLS_CERT=cert, DESK_NATS_TLS_KEY=key)
        return key

    @check(
        *("nats_creds", "nats_nkey", "nats_password_file"),
        *("nats_tls_ca", "nats_tls_cert", "nats_tls_key"),
    )
    @classmethod
    def _readable(cls, path: Path | None) -> Path | None:
        try:
            if path:
                path.open("rb").close()
        except OSError as error:
            raise ValueError(f"{shown(str(path))}: {error.strerror}") from None
        return path

    @property
    def nats_servers(self) -> tuple[str, ...]:
        return _servers(self.journal)


def _servers(journal: str) -> tuple[str, ...]:
    """Return one address for each server. Users and passwords have settings of their own."""
    servers = []
    for server in journal.removeprefix(SCHEME).split(","):
        if "@" in server:
            raise ValueError("must not have a password: use DESK_NATS_PASSWORD_FILE and so on")
        try:
            address = Address.parse(server.strip().removeprefix(SCHEME))
        except ValueError:
            raise ValueError("must be nats://host:port, with commas between servers") from None
        servers.append(f"{SCHEME}{address}")
    return tuple(servers)

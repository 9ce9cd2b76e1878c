"""The stored format: marks of a journal in a SQLite file, and migration of older versions.

Knows nothing of paths, locks and access rights.
"""

from collections.abc import Mapping
from importlib.resources import files
from uuid import uuid4

import apsw
import structlog

from journal.errors import Unavailable, Unreadable

APPLICATION_ID = 0x4465736B
"""`PRAGMA application_id` of a journal: "Desk" in ASCII."""

VERSION = 2
"""`PRAGMA user_version`: of schema.sql."""

MIGRATIONS: Mapping[int, str] = {
    1: """
        ALTER TABLE header ADD COLUMN oldest_revision INTEGER NOT NULL DEFAULT 1;
        ALTER TABLE entries ADD COLUMN kind INTEGER NOT NULL DEFAULT 1;
    """,
}
"""Statements that migrate a version to the next one, by version."""

log = structlog.get_logger()


def is_empty(connection: apsw.Connection) -> bool:
    """Return True if nothing was ever stored in the file."""
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    return (tables, connection.pragma("application_id")) == (0, 0)


def prepare_to_forget(connection: apsw.Connection) -> None:
    """Set the connection to overwrite deleted entries, so that no copies stay in unused bytes.

    Also lets a file become smaller later, by `PRAGMA incremental_vacuum`, if it is still empty.
    """
    connection.pragma("auto_vacuum", "incremental")
    connection.pragma("secure_delete", "fast")


def create(connection: apsw.Connection) -> None:
    """Make an empty file a journal, all of it or nothing."""
    prepare_to_forget(connection)
    with connection:
        connection.execute(
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
            f"{files('journal').joinpath('schema.sql').read_text()}"
        )
        connection.execute("INSERT INTO header (only, journal_id) VALUES (1, ?)", (uuid4().hex,))


def journal_id(connection: apsw.Connection) -> str:
    """Return the id that the journal was made with."""
    return str(connection.execute("SELECT journal_id FROM header").get)


def version(connection: apsw.Connection, name: str) -> int:
    """Return the version of the journal in the file `name`: ours, or one that `migrate` knows.

    Raises:
        Unavailable: nothing is stored there yet.
        Unreadable: it is no journal, or one of a version that this program does not know.
    """
    if is_empty(connection):
        raise Unavailable(f"there is no journal at {name} yet")
    if connection.pragma("application_id") != APPLICATION_ID:
        raise Unreadable(f"{name} is not a journal")
    found = int(connection.pragma("user_version"))
    if found != VERSION and found not in MIGRATIONS:
        raise Unreadable(f"{name} has version {found}, this program reads {VERSION}: upgrade it")
    return found


def migrate(connection: apsw.Connection, found: int, name: str) -> None:
    """Bring a journal of version `found` to ours, in one transaction."""
    if found == VERSION:
        return
    with connection:
        for older in range(found, VERSION):
            connection.execute(f"{MIGRATIONS[older]} PRAGMA user_version = {older + 1}")
    log.info("journal_migrated", journal=name, from_version=found, to_version=VERSION)

"""Journals of sessions, and views that follow them: what snapshots are made of."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw

from journal.entry import NewEntry
from journal.port import Journal
from service.view.errors import ViewUnavailable
from tests.support.callbacks import NOON, body, entry
from tests.support.views import following, read
from tests.support.waiting import PATIENCE, eventually

STATE = "SELECT applied_revision, hex(digest), complete FROM progress"


def append(journal: Journal, numbers: range) -> None:
    for number in numbers:
        made = entry(1, body("SessionBegin", NOON + number, session_id=f"session-{number}"))
        new = NewEntry(
            id=made.id, sdk_app_id=made.sdk_app_id, received_at=NOON + number, body=made.body
        )
        journal.append(new, timeout=PATIENCE)


def follow(journal: Journal, folder: Path) -> Path:
    """Run a follower until it has caught up."""
    folder.mkdir(exist_ok=True)
    with following(journal, folder):
        eventually(lambda: state(folder)[0::2] == (journal.head(), 1))
    return folder


def state(folder: Path) -> tuple[Any, ...]:
    """Revision, digest, and 1 if the view is complete."""
    with suppress(ViewUnavailable, apsw.Error):
        return next(iter(read(folder, STATE)), (-1, "", 0))
    return (-1, "", 0)


def append_large(journal: Journal) -> None:
    """Append two megabytes that zstd cannot compress."""
    for _ in range(20):
        content = os.urandom(100_000)
        new = NewEntry(id=content[:16], sdk_app_id=1, received_at=NOON, body=content)
        journal.append(new, timeout=PATIENCE)

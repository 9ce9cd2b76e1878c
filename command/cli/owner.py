"""Files belong to the user that runs the processes: no other can use them."""

import os
import pwd
from pathlib import Path

from command.cli import fail
from command.engines import JOURNAL_FILE


def require_owner(directory: Path) -> None:
    """Exit if another user owns a file of journal or view: it could not be opened."""
    for file in sorted((*directory.glob(f"{JOURNAL_FILE}*"), *directory.glob("view-*"))):
        owner = file.stat().st_uid
        if owner != os.geteuid():
            us = user_name(os.geteuid())
            fail(f"{file} belongs to {user_name(owner)}, and this is {us}: start it as its owner")


def user_name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"

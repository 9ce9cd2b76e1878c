"""The stream that holds a journal: its settings, and the refusal of a stream that breaks them.

Knows no connection.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from nats.js.api import DiscardPolicy, RePublish, RetentionPolicy, StorageType, StreamConfig

from journal.errors import Incomplete, Unreadable

VERSION = "1"
"""Version of the stored format: of subjects and headers."""

JOURNAL_ID = "desk-journal-id"
FORMAT = "desk-format"
COPYING = "desk-copying"
"""Keys of the stream's metadata. `COPYING` is there until the journal is whole."""

DUPLICATE_WINDOW = 600.0
"""Seconds in which JetStream recognises a repetition. The fold recognises a later one."""

MAX_SHOWN = 100
"""Characters of a setting in an error."""

_EQUAL = (
    "subjects",
    "storage",
    "retention",
    "discard",
    "max_age",
    "max_msgs",
    "max_msgs_per_subject",
    "max_msg_size",
    "allow_direct",
    "allow_atomic",
    "republish",
    "no_ack",
    "sealed",
    "mirror",
    "sources",
    "subject_transform",
    "persist_mode",
    "allow_msg_ttl",
    "allow_rollup_hdrs",
)
_AT_LEAST = ("num_replicas", "max_bytes", "duplicate_window")


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """The operator's options.

    Attributes:
        name: of the stream, and the first token of its subjects.
        replicas: servers that must have a copy, at least.
        max_bytes: bytes of the stream, at least; more are refused, nothing is removed.
    """

    name: str = "desk"
    replicas: int = 1
    max_bytes: int = 10 * 1024**3


def announcements(stream: str) -> str:
    """Return the subject on which the headers of each new message are published."""
    return f"{stream}-new"


def wanted(options: StreamOptions, journal_id: str) -> StreamConfig:
    """Return the settings of a journal's stream.

    The journal removes nothing by itself: no limit by age or number, and a full stream refuses.
    """
    subjects = f"{options.name}.*.*"
    return StreamConfig(
        name=options.name,
        description="Callbacks of Tencent Desk, by desk-sessions. Delete nothing here.",
        subjects=[subjects],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.NEW,
        max_age=0.0,
        max_msgs=-1,
        max_bytes=options.max_bytes,
        num_replicas=options.replicas,
        duplicate_window=DUPLICATE_WINDOW,
        allow_direct=True,
        allow_atomic=True,
        republish=RePublish(src=subjects, dest=announcements(options.name), headers_only=True),
        metadata={JOURNAL_ID: journal_id, FORMAT: VERSION},
    )


def check(found: StreamConfig, options: StreamOptions) -> str:
    """Return the id of the journal in a stream.

    Raises:
        Incomplete: the journal is not whole yet.
        Unreadable: the stream has no journal, one of another format, or breaks a rule.
    """
    metadata = found.metadata or {}
    journal_id, version = metadata.get(JOURNAL_ID, ""), metadata.get(FORMAT, "")
    if not re.fullmatch("[0-9a-f]{32}", journal_id):
        raise Unreadable(f"the stream {options.name} is not a journal: it has no {JOURNAL_ID}")
    if version != VERSION:
        raise Unreadable(
            f"the stream {options.name} has format {_shown(version)}, "
            f"this program reads {VERSION}: upgrade it"
        )
    if metadata.get(COPYING):
        raise Incomplete(f"the stream {options.name} waits for `desk journal copy`", journal_id)
    for fault in _faults(found, wanted(options, journal_id)):
        raise Unreadable(f"the stream {options.name} cannot be used: {fault}")
    return journal_id


def _faults(found: StreamConfig, rules: StreamConfig) -> Iterator[str]:
    for rule in _EQUAL:
        is_, should = getattr(found, rule), getattr(rules, rule)
        if (is_ or None) != (should or None):  # the server leaves out what is off
            yield f"{rule} is {_shown(is_)}, must be {_shown(should)}"
    for rule in _AT_LEAST:
        is_, should = getattr(found, rule), getattr(rules, rule)
        if is_ < should:
            yield f"{rule} is {_shown(is_)}, must be at least {_shown(should)}"


def _shown(value: object) -> str:
    return str(value)[:MAX_SHOWN]

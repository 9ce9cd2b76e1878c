"""The rules that a stream must keep to be a journal."""

from dataclasses import replace
from typing import Any

import pytest
from nats.js.api import PersistMode, RePublish, StorageType, StreamConfig, StreamSource

from journal.errors import Unreadable
from journal.jetstream_stream import StreamOptions, check, wanted

JOURNAL_ID = "0123456789abcdef" * 2
OPTIONS = StreamOptions(name="desk", replicas=3, max_bytes=1000)
GOOD = wanted(OPTIONS, JOURNAL_ID)


def test_a_stream_as_we_make_it_is_a_journal() -> None:
    assert check(GOOD, OPTIONS) == JOURNAL_ID


def test_a_stream_may_be_safer_and_larger_than_asked_for() -> None:
    larger = replace(GOOD, num_replicas=5, max_bytes=10_000, duplicate_window=3600.0)
    assert check(larger, OPTIONS) == JOURNAL_ID


@pytest.mark.parametrize(
    ("rule", "found", "said"),
    [
        ("subjects", ["desk.>"], "subjects is ['desk.>'], must be ['desk.*.*']"),
        ("storage", StorageType.MEMORY, "storage is"),
        ("retention", "workqueue", "retention is workqueue, must be"),
        ("discard", "old", "discard is old, must be"),
        ("max_age", 3600.0, "max_age is 3600.0, must be 0.0"),
        ("max_msgs", 10, "max_msgs is 10, must be -1"),
        ("max_msgs_per_subject", 1, "max_msgs_per_subject is 1, must be -1"),
        ("allow_direct", False, "allow_direct is False, must be True"),
        ("republish", None, "republish is None, must be"),
        ("republish", RePublish(src="desk.>", dest="x"), "republish is"),
        ("no_ack", True, "no_ack is True, must be False"),
        ("sealed", True, "sealed is True, must be False"),
        ("mirror", StreamSource(name="other"), "mirror is"),
        ("persist_mode", PersistMode.ASYNC, "persist_mode is"),
        ("allow_msg_ttl", True, "allow_msg_ttl is True"),
        ("num_replicas", 1, "num_replicas is 1, must be at least 3"),
        ("max_bytes", -1, "max_bytes is -1, must be at least 1000"),
        ("duplicate_window", 120.0, "duplicate_window is 120.0, must be at least 600.0"),
    ],
)
def test_a_stream_that_breaks_a_rule_is_refused_in_one_line_that_names_it(
    rule: str, found: Any, said: str
) -> None:
    with pytest.raises(Unreadable) as refused:
        check(replace(GOOD, **{rule: found}), OPTIONS)
    line = str(refused.value)
    assert line.startswith(f"the stream desk cannot be used: {said}")
    assert "\n" not in line
    assert len(line) < 300


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (None, "the stream desk is not a journal: it has no desk-journal-id"),
        ({"desk-journal-id": "x"}, "the stream desk is not a journal"),
        (
            {"desk-journal-id": JOURNAL_ID, "desk-format": "2"},
            "the stream desk has format 2, this program reads 1: upgrade it",
        ),
    ],
)
def test_a_stream_that_is_no_journal_of_this_version_is_refused(
    metadata: dict[str, str] | None, said: str
) -> None:
    with pytest.raises(Unreadable, match=said):
        check(StreamConfig(name="desk", metadata=metadata), OPTIONS)

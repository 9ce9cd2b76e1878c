"""FORGET entries: their lists, limits and identity."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from journal.entry import Kind, validate
from journal.forgetting import MAX_FORGOTTEN, forget_entry, forget_list_of

APP = 1400000001


def test_an_entry_lists_what_is_to_be_forgotten() -> None:
    entry = forget_entry(APP, 5, session_ids=["a", "b", "a"], revisions=[7], up_to=9)
    validate(entry)
    listed = forget_list_of(entry)
    assert entry.kind == Kind.FORGET
    assert (listed.session_ids, listed.revisions, listed.up_to) == (("a", "b"), (7,), 9)


def test_the_same_session_can_be_forgotten_twice() -> None:
    first, second = (forget_entry(APP, 5, session_ids=["a"]) for _ in range(2))
    assert first.id != second.id


@pytest.mark.parametrize(
    ("session_ids", "revisions"),
    [([], []), ([""], []), ([], [0]), ([], [2**63]), (map(str, range(MAX_FORGOTTEN)), [1])],
)
def test_an_impossible_list_is_refused(session_ids: Sequence[str], revisions: list[int]) -> None:
    with pytest.raises(ValueError, match=r"revision|id is empty|may be listed"):
        forget_entry(APP, 5, session_ids=session_ids, revisions=revisions)


@pytest.mark.parametrize("up_to", [-1, 2**63])
def test_an_impossible_last_revision_is_refused(up_to: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        forget_entry(APP, 5, session_ids=["a"], up_to=up_to)


def test_an_entry_that_was_changed_is_not_applied() -> None:
    entry = forget_entry(APP, 5, session_ids=["a"])
    for changed in (
        replace(entry, body=entry.body.replace(b'"a"', b'"b"')),
        replace(entry, sdk_app_id=APP + 1),
        replace(entry, body=b"{}"),
    ):
        with pytest.raises(ValueError, match="digest"):
            forget_list_of(changed)

"""A session's history gives the same however little of it is at hand."""

from collections.abc import Iterator
from random import Random
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

import service.history
from callback.decoder import Malformed
from journal.entry import Entry
from service.history import FoldLimits, History, HistoryEntry
from service.session import Facts, Reason, without_message
from tests.support.callbacks import decode
from tests.support.histories import journals

limits = st.just(FoldLimits()) | st.builds(
    FoldLimits, st.integers(1, 40), st.integers(1, 30), st.integers(1, 60)
)


def facts_of(journal: list[Entry]) -> Iterator[Facts]:
    """Yield what one session's history takes of a journal."""
    for each in journal:
        try:
            callback = decode(each.body, each.received_at)
        except Malformed:
            continue
        if callback.session_id == "s1":
            yield without_message(callback, each.id)


class Partial:
    """A history that lets go of its past whenever it may, and has it read back when it must."""

    def __init__(self, random: Random, limits: FoldLimits, keep: int) -> None:
        self.history = History()
        self.kept: list[tuple[Facts, int]] = []
        self._random = random
        self._limits = limits
        self._keep = keep

    def add(self, facts: Facts, revision: int) -> list[HistoryEntry]:
        entry = HistoryEntry.of(facts, revision)
        is_full = self.history.usage.is_used_up(self._limits)
        if not is_full and not self.history.reaches(entry.key):
            self.history = self.read_back()
        changed = take(self.history, entry, self._limits)
        if reason_of(changed[0]) is not Reason.SESSION_TOO_LONG:
            self.kept.append((facts, revision))
        if self.history.usage.is_used_up(self._limits):
            self.history.close()
        return changed

    def read_back(self) -> History:
        return History.replay([HistoryEntry.of(*each) for each in self.kept], self.history.usage)

    def let_go(self) -> None:
        if self._random.random() < 0.3:
            self.history.trim(self._keep)
        if self._random.random() < 0.2 and self.history.session.begun_at:
            self.history = History.restore(self.history.save())


def take(history: History, entry: HistoryEntry, limits: FoldLimits) -> list[HistoryEntry]:
    is_full = history.usage.is_used_up(limits)
    return [history.reject(entry)] if is_full else history.add(entry)


def reason_of(entry: HistoryEntry) -> Reason:
    return entry.outcome.reason


def outcomes(callbacks: list[HistoryEntry]) -> list[object]:
    return [(each.revision, each.outcome) for each in callbacks]


@pytest.mark.parametrize("stays", [1, 3, 50])
@given(
    journal=journals(most=40),
    seed=st.integers(0, 2**32),
    tail=st.sampled_from([1, 2, 3, 8]),
    limits=limits,
)
def test_a_history_gives_the_same_however_little_of_it_is_at_hand(
    stays: int, journal: list[Entry], seed: int, tail: int, limits: FoldLimits
) -> None:
    with patch.object(service.history, "MAX_STAYS", stays):
        compare(journal, seed, tail, limits)


def compare(journal: list[Entry], seed: int, tail: int, limits: FoldLimits) -> None:
    whole, partial = History(), Partial(Random(seed), limits, tail)
    for revision, facts in enumerate(facts_of(journal), 1):
        changed = take(whole, HistoryEntry.of(facts, revision), limits)
        assert outcomes(partial.add(facts, revision)) == outcomes(changed)
        assert partial.history.session == whole.session
        assert partial.history.usage == whole.usage
        anew = partial.read_back()
        if reason_of(changed[0]) is not Reason.SESSION_TOO_LONG:
            assert anew.session == whole.session
        assert outcomes(anew.tail) == outcomes(whole.tail)
        partial.let_go()

"""A late callback looks at what it changes, and what it looks at is counted."""

from collections.abc import Iterator
from typing import Any

from service.history import History, HistoryEntry
from service.session import Facts
from tests.support.callbacks import NOON


class Counted(list[HistoryEntry]):
    """A time line that counts the callbacks that are looked at."""

    looked_at = 0

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        self.looked_at += len(found) if isinstance(place, slice) else 1
        return found

    def __iter__(self) -> Iterator[HistoryEntry]:
        return (self[place] for place in range(len(self)))

    def __reversed__(self) -> Iterator[HistoryEntry]:
        return (self[place] for place in reversed(range(len(self))))


class Life:
    """A session that has ended by its user, then had a thousand callbacks of one kind."""

    def __init__(self, event: str) -> None:
        self._revision = 0
        self._history = History()
        self.add("SessionBegin", 0)
        self.add("SessionUserEnd", 100_000, client_user_id="user-1", channel_type="SDK")
        for number in range(1_000):
            self.add(event, 100_001 + number)
        self._history.tail = self.line = Counted(self._history.tail)

    def add(self, event: str, time: int, **names: str) -> History:
        self._revision += 1
        facts = Facts(NOON + time, event, self._revision.to_bytes(16), **names)
        self._history.add(HistoryEntry.of(facts, self._revision))
        return self._history


def test_the_last_sign_of_life_is_found_among_what_was_folded_again() -> None:
    life = Life("TransferringToHuman")  # rejected, all of them
    history = life.add("SessionUserEnd", 99_999, client_user_id="user-1", channel_type="SDK")
    assert history.session.last_event_at == NOON + 99_999
    assert life.line.looked_at < 50


def test_names_that_are_offered_no_more_are_looked_for_once_and_that_is_counted() -> None:
    life = Life("ChatBot.RobotSendMsg")  # accepted, but without names
    history = life.add("SessionUserEnd", 99_999)
    assert (history.session.client_user_id, history.session.channel_type) == ("", "")
    assert history.usage.redone == 1_001
    assert life.line.looked_at < 1_050
    history = life.add("ChatBot.RobotSendMsg", 100_500, client_user_id="user-2")
    assert history.session.client_user_id == "user-2"
    assert history.usage.redone == 1_001


def test_a_name_is_looked_for_as_far_as_it_is_offered() -> None:
    life = Life("ChatBot.RobotSendMsg")
    life.add("ChatBot.RobotSendMsg", 100_100, client_user_id="user-2", channel_type="Web")
    life.line.looked_at = 0
    history = life.add("SessionUserEnd", 99_999)
    assert (history.session.client_user_id, history.session.channel_type) == ("user-2", "Web")
    assert 90 < history.usage.redone < 110

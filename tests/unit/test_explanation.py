"""The lateness of callbacks in an explanation."""

from callback.decoder import MAX_EVENT_TIME
from service.explanation import explained
from service.history import HistoryEntry
from service.session import without_message
from tests.support.callbacks import NOON, body, decode


def late_by(*bodies: bytes) -> list[tuple[int, int | None]]:
    """Explain callbacks that arrived in this order: (revision, ms), in order of time."""
    callbacks = [
        HistoryEntry.of(without_message(decode(each, MAX_EVENT_TIME), b"%d" % revision), revision)
        for revision, each in enumerate(bodies, 1)
    ]
    return [(each.position, each.late_by) for each in explained(callbacks, {1: 1, 2: 2, 3: 3})]


def test_a_callback_is_as_late_as_it_is_older_than_the_newest_before_it() -> None:
    begin, said = body("SessionBegin", NOON), body("ChatBot.UserSendMsg", NOON + 1_000)
    end, robot = body("SessionEnd", NOON + 9_000), body("ChatBot.RobotSendMsg", NOON + 3_000)
    assert late_by(begin, end, robot) == [(1, None), (3, 6_000), (2, None)]
    assert late_by(end, said, robot) == [(2, 8_000), (3, 6_000), (1, None)]


def test_a_begin_that_arrives_late_without_being_older_is_late_by_nothing() -> None:
    said, begin = body("ChatBot.UserSendMsg", NOON), body("SessionBegin", NOON + 1_000)
    assert late_by(said, begin) == [(2, 0), (1, None)]

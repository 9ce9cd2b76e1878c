"""A session's message does not grow with the number of its changes."""

from pathlib import Path

from callback.catalogue import State
from desk.v1 import session_pb2
from service.session import MAX_STAYS, Session, Stay
from service.session_message import SessionMessage

NAMES = [f"{number:03}" + "é" * 120 for number in range(500)]
ROOM = 40 * 1024 * 1024


def memory() -> int:
    """Return the bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def handovers(times: int) -> tuple[bytes, int]:
    """Hand a session over among many agents; return what shows it and the bytes that it took."""
    session, message = Session(state=State.WITH_AGENT), SessionMessage(1, "s")
    before = memory()
    for number in range(times):
        session.agent_id = NAMES[number % 500]
        session.agent_ids = tuple(NAMES[(number + n) % 500] for n in range(20))
        message.update(session, 7)
    fresh = SessionMessage(1, "s").update(session, 7)
    assert message.bytes == fresh
    return message.bytes, memory() - before


def test_a_message_does_not_keep_the_texts_that_were_replaced() -> None:
    assert handovers(20_000)[1] < ROOM


def test_a_message_shows_the_session_after_each_change() -> None:
    for times in range(1, 30):
        assert len(handovers(times)[0]) > 20 * 240


def test_stays_end_where_the_next_ones_begin() -> None:
    shown = shown_stays([10_000], [10_000, 20_000], [10_000, 20_000, 30_000])
    assert shown == [(10_000, 20_000), (20_000, 30_000), (30_000, None)]


def test_stays_are_shown_anew_when_a_late_callback_has_changed_them() -> None:
    assert shown_stays([1, 20_000, 30_000], [1, 25_000]) == [(1, 25_000), (25_000, None)]
    assert shown_stays([1, 20_000, 30_000], [1]) == [(1, None)]


def test_the_first_stay_does_not_begin_after_its_end() -> None:
    assert shown_stays([5_000], [5_000, 2_000]) == [(2_000, 2_000), (2_000, None)]
    assert shown_stays([5_000, 2_000], [5_000, 7_000]) == [(5_000, 7_000), (7_000, None)]


def test_the_last_stay_that_is_listed_has_its_end() -> None:
    shown = shown_stays(list(range(MAX_STAYS)), list(range(MAX_STAYS + 1)))
    assert len(shown) == MAX_STAYS
    assert shown[-1] == (MAX_STAYS - 1, MAX_STAYS)


def shown_stays(*changes: list[int]) -> list[tuple[int, int | None]]:
    """Show stays that begin at these times, one list after the other; return what is shown."""
    message = SessionMessage(1, "s")
    for starts in changes:
        stays = tuple(Stay(State.QUEUED, "", start) for start in starts)
        message.update(Session(stays=stays), 7, ())
    return [
        (
            stay.start_time.ToMilliseconds(),
            stay.end_time.ToMilliseconds() if stay.HasField("end_time") else None,
        )
        for stay in session_pb2.Session.FromString(message.bytes).stays
    ]

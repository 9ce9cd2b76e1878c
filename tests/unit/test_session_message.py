"""A session's message does not grow with the number of its changes."""

from pathlib import Path

from callback.catalogue import State
from service.records import SessionMessage
from service.session import Session

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

"""Parts of the feed end where a revision ends; snapshots are of their revision."""

from contextlib import closing

import pytest

from desk.v1.session_pb2 import Session
from service.positions import complete_revision, last_of, position_of, revision_of
from service.rpc import reads
from service.view.bounds import FRAMING, Bounds, cut
from service.view.reader import Reader
from service.view.selection import EventSelection, SnapshotSelection
from tests.support.callbacks import NOON, body, life
from tests.support.rpc import world


def rows(*sizes: int) -> list[tuple[int, bytes]]:
    """Revisions 1, 2, … of that many records of 100 bytes each."""
    return [
        (position_of(revision) + ordinal, b"x" * 100)
        for revision, size in enumerate(sizes, 1)
        for ordinal in range(size)
    ]


@pytest.mark.parametrize(
    ("sizes", "room", "taken", "complete"),
    [
        ((1, 1, 1), 9, 3, 9),
        ((1, 1, 1), 2, 2, 2),
        ((1, 3, 1), 2, 1, 1),
        ((1, 3, 1), 3, 1, 1),
        ((1, 3, 1), 4, 4, 2),
        ((5, 1), 0, 1, 0),
        ((5, 1), 3, 3, 0),
        ((5, 1), 5, 5, 1),
    ],
)
def test_a_part_ends_with_a_revision_unless_one_alone_is_too_large(sizes, room, taken, complete):
    part, reached = cut(rows(*sizes), last_of(9), enough=room * (100 + FRAMING))
    assert part == rows(*sizes)[:taken]
    assert complete_revision(reached) == complete


def test_a_session_is_in_the_snapshot_of_the_agent_who_had_it_then():
    # It is named before it begins: its first revision is not its number.
    early = body("ChatBot.UserSendMsg", NOON + 1)
    events = ("SessionBegin", "TransferringToHuman", "TransferToHumanSuccess")
    bodies = life(*events, AgentId="agent-a")
    handed_on = life(*events, "AgentForward", AgentId="agent-b")[3:]
    with world([early, *bodies, *handed_on]) as made:
        made.wait()
        with closing(Reader(made.view)) as opened:
            for revision, agent in ((4, "agent-a"), (5, "agent-b")):
                for asked in ("agent-a", "agent-b"):
                    selection = SnapshotSelection(agent_ids=(asked,))
                    part = reads.part(opened, selection, 0, revision, 100)
                    found = [Session.FromString(blob).agent_id for blob in part.sessions]
                    assert found == ([agent] if asked == agent else [])


def test_a_page_that_looks_at_many_rejections_may_be_short_but_misses_none():
    bodies = [
        body("ChatBot.UserSendMsg", NOON + n, session_id=f"s{n % 5}", MsgKey=str(n))
        for n in range(20)
    ]
    selection = EventSelection(session_ids=("s4",))
    with world(bodies) as made:
        made.wait()
        found, before, pages = [], position_of(100), 0
        with closing(Reader(made.view, Bounds(rows=3))) as opened:
            while before is not None:
                rows, before = opened.rejections(selection, before, 10)
                found += [revision_of(row[0]) for row in rows]
                pages += 1

    assert found == [n + 1 for n in reversed(range(20)) if n % 5 == 4]
    assert pages > 6

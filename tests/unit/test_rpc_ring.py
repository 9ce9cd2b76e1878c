"""The ring of live records is bounded, and knows what it no longer holds."""

from journal.entry import numbered
from journal.forgetting import forget_entry, forget_list_of
from service.positions import last_of, position_of
from service.records import forgotten
from service.rpc.live_feed import Ring
from service.view.bounds import FRAMING
from service.view.selection import LiveRow


def row(revision: int, size: int = 100) -> LiveRow:
    return LiveRow(position_of(revision), b"x" * size, None, 1, "s", 2, 2, "", "", "")


def ring_at(head: int, *, rows: int = 1_000, size: int = 1_000_000) -> Ring:
    return Ring(head, rows=rows, size=size)


def test_the_ring_holds_what_came_after_its_floor():
    ring = ring_at(last_of(3))
    ring.extend([row(4), row(5)], last_of(5))
    assert (ring.floor, ring.head) == (last_of(3), last_of(5))
    assert ring.after(last_of(3)) == [row(4), row(5)]
    assert ring.after(last_of(4)) == [row(5)]
    assert ring.after(last_of(5)) == []


def test_the_ring_is_bounded_by_count():
    ring = ring_at(0, rows=10)
    for revision in range(1, 101):
        ring.extend([row(revision)], last_of(revision))
        assert len(ring) <= 10
    assert ring.floor == position_of(90)
    assert [each.position for each in ring.after(ring.floor)] == [
        position_of(n) for n in range(91, 101)
    ]


def test_the_ring_is_bounded_by_bytes():
    ring = ring_at(0, size=10 * (1_000 + FRAMING))
    for revision in range(1, 101):
        ring.extend([row(revision, 1_000)], last_of(revision))
        assert ring.bytes <= 10 * (1_000 + FRAMING)
    assert len(ring) == 10


def test_a_row_larger_than_the_ring_leaves_it_empty():
    ring = ring_at(0, size=1_000)
    ring.extend([row(1, 5_000)], last_of(1))
    assert (len(ring), ring.bytes, ring.floor) == (0, 0, position_of(1))


def test_what_is_forgotten_leaves_the_ring():
    ring = ring_at(0)
    malformed = [row(revision)._replace(session_id="") for revision in (3, 4)]
    others = [row(5)._replace(session_id="kept"), row(6)._replace(sdk_app_id=2)]
    before = forgetting(7, "s", 3)
    ring.extend([row(1), row(2), *malformed, *others, before], last_of(7))
    ring.forget(forgetting(8, "s", 2, 3, 5, 7))
    kept = [malformed[1], *others, before]
    assert ring.after(0) == kept
    assert ring.bytes == sum(len(each.record) + FRAMING for each in kept)
    assert (ring.floor, ring.head) == (0, last_of(7))


def forgetting(revision: int, session_id: str, *revisions: int) -> LiveRow:
    entry = numbered(forget_entry(1, 0, session_ids=[session_id], revisions=revisions), revision)
    record = forgotten(entry, forget_list_of(entry))
    return row(revision)._replace(session_id="", record=record)

"""Rules that each row of the catalogue must keep. Nothing of the service is imported."""

from collections import Counter

from callback.catalogue import RANK_OF_UNKNOWN, RANKS, EventType
from desk.v1.event_pb2 import EventType as WireType
from tests.support.model import ORDER


def test_every_event_type_has_a_wire_number_and_every_number_an_event_type() -> None:
    names = {f"EVENT_TYPE_{event.name}" for event in EventType}
    without_number = names - set(WireType.keys())
    assert not without_number, f"missing in proto/desk/v1/event.proto: {without_number}"
    without_row = set(WireType.keys()) - names
    assert without_row == {"EVENT_TYPE_UNSPECIFIED", "EVENT_TYPE_UNRECOGNISED"}


def test_no_event_type_has_two_transitions_from_one_state() -> None:
    for event in EventType:
        sources = Counter(state for row in event.row.transitions for state in row.sources)
        assert set(sources.values()) == {1}, event


def test_events_of_the_same_millisecond_are_in_the_order_that_was_decided() -> None:
    ranks = sorted(set(RANKS.values()))
    assert [{each for each in RANKS if RANKS[each] == rank} for rank in ranks] == ORDER
    assert max(RANKS.values()) < RANK_OF_UNKNOWN

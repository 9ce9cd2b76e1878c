"""The transition table, against the decision it was written from, pair by pair."""

import pytest
from transitions import MachineError

from journal.callback import Callback
from service.machine import MACHINE, RANKS, EndReason, Event, State, fire, steps
from service.session import Session
from tests.support.model import decided


def callback(event: str, *, is_contact_user: bool = False) -> Callback:
    return Callback(session_id="s", event=event, event_time=1, is_contact_user=is_contact_user)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_event_in_every_state_does_what_was_decided(event: Event, state: State) -> None:
    session = Session(state=state)
    expected = decided().get((event.value, state.value))
    assert fire(session, event, callback(event)) is (expected is not None)
    assert session.state == (expected or state)


@pytest.mark.parametrize("end_reason", [EndReason.UNSPECIFIED, EndReason.USER])
@pytest.mark.parametrize("contacted", [False, True])
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_the_quick_way_agrees_with_the_machine(
    event: Event, state: State, contacted: bool, end_reason: EndReason
) -> None:
    quick, slow = (Session(state=state, end_reason=end_reason) for _ in range(2))
    caused_by = callback(event, is_contact_user=contacted)
    try:
        moved = bool(MACHINE.events[event.value].trigger(slow, slow, caused_by))
    except MachineError:
        moved = False
    assert fire(quick, event, caused_by) is moved
    assert quick == slow


@pytest.mark.parametrize(
    ("on_begin", "on_event", "joins"),
    [(False, False, False), (True, False, True), (False, True, True)],
)
def test_an_agent_joins_from_the_chatbot_only_after_contacting_the_user(
    on_begin: bool, on_event: bool, joins: bool
) -> None:
    session = Session(state=State.CHATBOT, agent_initiated=on_begin)
    event = Event.TRANSFER_TO_HUMAN_SUCCESS
    assert fire(session, event, callback(event, is_contact_user=on_event)) is joins
    assert session.state is (State.WITH_AGENT if joins else State.CHATBOT)


@pytest.mark.parametrize("event", [event for event in Event if event in RANKS and "End" in event])
def test_an_ended_session_takes_one_end_reason_only(event: Event) -> None:
    session = Session(state=State.ENDED, end_reason=EndReason.USER)
    assert fire(session, event, callback(event)) is False


def test_the_table_has_one_row_for_each_pair() -> None:
    pairs = [(event, source) for event, source, _, _ in steps()]
    assert len(pairs) == len(set(pairs))


def test_every_event_has_a_rank() -> None:
    assert set(RANKS) == set(Event)

"""The transitions, against the rules of docs/callbacks.md, for every state and event."""

import pytest
from transitions import MachineError

from callback.catalogue import EndReason, EventType, State
from service.session import MACHINE, Core, Facts, accepted
from tests.support.model import decided


def destination(core: Core, caused_by: Facts) -> State | None:
    outcome = accepted(core, caused_by)
    return outcome and outcome.after


def facts(event: str, *, is_contact_user: bool = False) -> Facts:
    return Facts(event_time=0, event=event, identity=b"", is_contact_user=is_contact_user)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", EventType)
def test_every_event_in_every_state_does_what_was_decided(event: EventType, state: State) -> None:
    expected = decided().get((event.value, state.value))
    assert destination(Core(state=state), facts(event)) == expected


@pytest.mark.parametrize("end_reason", [EndReason.UNSPECIFIED, EndReason.USER])
@pytest.mark.parametrize("contacted", [False, True])
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", EventType)
def test_the_quick_way_agrees_with_the_machine(
    event: EventType, state: State, contacted: bool, end_reason: EndReason
) -> None:
    core, moved = (Core(state=state, end_reason=end_reason) for _ in range(2))
    caused_by = facts(event, is_contact_user=contacted)
    try:
        is_possible = bool(MACHINE.events[event.value].trigger(moved, moved, caused_by))
    except MachineError:
        is_possible = False
    assert destination(core, caused_by) == (moved.state if is_possible else None)


@pytest.mark.parametrize(
    ("on_begin", "on_event", "joins"),
    [(False, False, False), (True, False, True), (False, True, True)],
)
def test_an_agent_joins_from_the_chatbot_only_after_contacting_the_user(
    on_begin: bool, on_event: bool, joins: bool
) -> None:
    core = Core(state=State.CHATBOT, agent_initiated=on_begin)
    event = EventType.TRANSFER_TO_HUMAN_SUCCESS
    found = destination(core, facts(event, is_contact_user=on_event))
    assert found is (State.WITH_AGENT if joins else None)


@pytest.mark.parametrize("event", [event for event in EventType if "End" in event])
def test_an_ended_session_takes_one_end_reason_only(event: EventType) -> None:
    core = Core(state=State.ENDED, end_reason=EndReason.USER)
    assert destination(core, facts(event)) is None

"""The life of a session as a `transitions` machine, made from the catalogue of event types.

Pure: no I/O, no clock. What a session remembers besides its state is in `service.session`.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

from transitions import Machine

from callback.catalogue import EventType, Guard, State

Check = Callable[[Any, Any], bool]
"""Returns True if a session may take a transition by a callback."""

Steps = dict[tuple[str, str], tuple[State, list[Check]]]
"""By event and state: the next state, and the checks that must all pass."""


def build(checks: Mapping[Guard, Check]) -> Machine:
    """Make the machine, with a function for each guard.

    `machine.events[event].trigger(session, session, callback)` moves a session, and raises
    `transitions.MachineError` where the table has no step.
    """
    machine = Machine(
        model=None, states=State, initial=State.NEW, auto_transitions=False, queued=False
    )
    for event in EventType:
        for sources, to, guard in event.row.transitions:
            conditions = guard and checks[guard]
            machine.add_transition(event.value, list(sources), to or "=", conditions=conditions)
    return machine


def compiled(machine: Machine) -> Steps:
    """Return a dict that moves a session as the machine does, and faster.

    Raises:
        ValueError: the table has two transitions for one event in one state.
    """
    return {
        (event, source): (
            State[str(step.dest)],
            [cast(Check, condition.func) for condition in step.conditions],
        )
        for event in EventType
        for source, [step] in machine.events[event.value].transitions.items()
    }

"""Waiters: a row asks only those that wait for its session in its state; waking is in steps."""

from contextlib import ExitStack
from itertools import pairwise

from google.protobuf.message import DecodeError

from desk.v1.session_pb2 import Session
from service.positions import position_of
from service.rpc.waiters import StateWaiter, Waiters
from service.view.selection import LiveRow

KEY = (1, "s")
CHATBOT, QUEUED, ENDED = 1, 3, 7


def row(revision: int, state: int, *, blob: bytes | None = None) -> LiveRow:
    session = Session(state=state).SerializeToString()  # type: ignore[arg-type]
    return LiveRow(position_of(revision), b"", blob or session, *KEY, 2, 2, "", "", "")


def many(waiters: Waiters, stack: ExitStack, *states: int, count: int = 1_000) -> list[StateWaiter]:
    wanted = frozenset(states)
    return [stack.enter_context(waiters.state(KEY, wanted)) for _ in range(count)]


def seen(waiting: list[StateWaiter]) -> set[int]:
    """The revisions at which waiters saw their state."""
    return {waiter.seen.result().revision for waiter in waiting if waiter.seen.done()}


async def test_a_row_costs_the_same_however_many_wait_for_another_state():
    waiters = Waiters()
    with ExitStack() as stack:
        waiting = many(waiters, stack, ENDED)
        steps = list(waiters.announce([row(n, CHATBOT) for n in range(1, 51)], 50))
        assert len(steps) == 50
        assert not seen(waiting)


async def test_waking_many_is_in_small_steps_that_others_may_come_between():
    waiters = Waiters()
    with ExitStack() as stack:
        waiting = many(waiters, stack, QUEUED, ENDED)
        steps = waiters.announce([row(1, QUEUED), row(2, ENDED)], 2)
        woken = [0, *(sum(waiter.seen.done() for waiter in waiting) for _ in steps)]
        assert all(after - before <= 1 for before, after in pairwise(woken))
        assert woken[-1] == 1_000
        assert seen(waiting) == {1}


async def test_waiters_may_leave_while_others_are_woken():
    waiters = Waiters()
    with ExitStack() as staying, ExitStack() as leaving:
        many(waiters, leaving, ENDED)
        waiting = many(waiters, staying, ENDED)
        steps = waiters.announce([row(1, ENDED)], 1)
        next(steps)
        next(steps)
        leaving.close()
        list(steps)
        assert all(waiter.seen.done() for waiter in waiting)


async def test_a_row_that_a_waiter_knew_already_does_not_wake_it():
    waiters = Waiters()
    with waiters.state(KEY, frozenset({ENDED})) as waiter:
        waiter.after = 2
        list(waiters.announce([row(1, ENDED), row(2, ENDED)], 2))
        assert not waiter.seen.done()
        list(waiters.announce([row(3, ENDED)], 3))
        assert waiter.seen.result().revision == 3


async def test_a_damaged_session_is_an_error_for_those_that_wait_for_it():
    waiters = Waiters()
    with ExitStack() as stack:
        waiting = many(waiters, stack, QUEUED, ENDED, count=3)
        list(waiters.announce([row(1, ENDED, blob=b"\xff")], 1))
        for waiter in waiting:
            assert isinstance(waiter.seen.exception(), DecodeError)


async def test_those_that_wait_for_a_revision_are_woken_in_steps_too():
    waiters = Waiters()
    with ExitStack() as stack:
        due = [stack.enter_context(waiters.revision(n)) for n in range(1, 101)]
        later = stack.enter_context(waiters.revision(101))
        for number, _ in enumerate(waiters.announce([], 100), 1):
            assert sum(future.done() for future in due) == number
        assert all(future.done() for future in due)
        assert not later.done()

"""Waiting for a condition with a deadline: the only way in which tests wait."""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

Result = TypeVar("Result")

PATIENCE = 60.0
"""Seconds to wait for what must come: many times what it takes on a quiet machine."""


def eventually(
    condition: Callable[[], Result], *, within: float = PATIENCE, what: str = ""
) -> Result:
    """Ask again and again until the answer is true, and return it; fail after `within` seconds."""
    result = last_answer(condition, bool, within=within)
    assert result, f"not within {within} s: {what or condition}"
    return result


def last_answer(
    ask: Callable[[], Result], is_wanted: Callable[[Result], bool], *, within: float = PATIENCE
) -> Result:
    """Ask again and again, `within` seconds, until an answer is as wanted; return the last one."""
    deadline = time.monotonic() + within
    while not is_wanted(answer := ask()) and time.monotonic() <= deadline:
        time.sleep(0.005)
    return answer


def longest_pause(times: Sequence[float]) -> float:
    return max(later - earlier for earlier, later in pairwise(times))

"""Waiting for a condition with a deadline: the only way in which tests wait."""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

PATIENCE = 60.0
"""Seconds to wait for what must come: many times what it takes on a quiet machine."""


def eventually(
    condition: Callable[[], Result], *, within: float = PATIENCE, what: str = ""
) -> Result:
    """Ask again and again until the answer is true, and return it; fail after `within` seconds."""
    deadline = time.monotonic() + within
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what or condition}")
        time.sleep(0.005)
    return result

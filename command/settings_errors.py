"""Errors of settings: one line for each problem, which shows no value that may be a secret."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from storage.changes import FileProblem

PREFIX = "DESK_"
"""Begins the name of each variable."""


class SettingsError(Exception):
    """The settings are wrong or incomplete.

    Attributes:
        problems: one line each, which names the variable and shows no secret.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@contextmanager
def settings_errors() -> Iterator[None]:
    """Raise pydantic's errors, and those of `.env`, as `SettingsError`."""
    try:
        yield
    except ValidationError as error:
        raise SettingsError([_line(**problem) for problem in error.errors()]) from None
    except UnicodeDecodeError:
        raise SettingsError([".env is not UTF-8"]) from None
    except OSError as error:
        raise SettingsError([f".env cannot be read: {error.strerror}"]) from None


def _line(
    *, loc: tuple[int | str, ...], type: str, msg: str, ctx: Mapping[str, Any] = {}, **_: object
) -> str:
    """Return a problem that pydantic found as one line, without the input: it may be a secret."""
    variable = PREFIX + str(loc[0]).upper()
    if type == "missing":
        return f"{variable} must be set"
    if type == "bool_parsing":
        return f"{variable} must be true or false"
    text = msg.removeprefix("Value error, ").replace("Input should be", "must be")
    if text.startswith(PREFIX):
        return text
    unusable = isinstance(ctx.get("error"), FileProblem)
    return f"{variable} {'cannot be used: ' if unusable else ''}{text}"

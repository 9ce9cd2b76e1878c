"""Reads docker-compose.yml as compose does, as far as ours goes: anchors and `${…}`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent.parent

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<how>[-?])(?P<text>[^}]*))?\}")


class Refused(Exception):
    """A required variable is not set; the message says which."""


def read_compose(**variables: str) -> dict[str, Any]:
    """The file with `variables` filled in.

    Raises:
        Refused: as `docker compose` would.
    """
    document = YAML(typ="safe", pure=True).load(ROOT / "docker-compose.yml")
    filled: dict[str, Any] = _fill(document, variables)
    return filled


def _fill(part: Any, variables: Mapping[str, str]) -> Any:
    """Compose fills in after it has parsed: a value is a string, whatever it looks like."""
    if isinstance(part, dict):
        return {key: _fill(value, variables) for key, value in part.items()}
    if isinstance(part, list):
        return [_fill(value, variables) for value in part]
    if isinstance(part, str):
        return _VARIABLE.sub(lambda match: _value(variables, **match.groupdict()), part)
    return part


def _value(variables: Mapping[str, str], name: str, how: str, text: str) -> str:
    if variables.get(name):
        return variables[name]
    if how == "-":
        return text
    raise Refused(f"{name}: {text}")

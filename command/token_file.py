"""The callback tokens as they are written, in a variable or in a file. No error shows one."""

import re
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr

from storage.changes import FileProblem, read_file

MAX_TOKEN_FILE = 64 * 1024
"""Bytes of a file with tokens."""

_UNTIL = re.compile(r"\s*;\s*until\s*=\s*", re.IGNORECASE)


class Token(NamedTuple):
    """A callback token, and the last day on which it is valid, in UTC; None = no end."""

    secret: SecretStr
    until: date | None


Tokens = dict[int, tuple[Token, ...]]


def read_tokens(text: str) -> Tokens:
    """Read pairs, separated by commas or line ends. An error names a pair by its number."""
    tokens: Tokens = {}
    pairs = [pair.strip() for pair in re.split(r"[,\n]", text) if pair.strip()]
    for place, pair in enumerate(pairs, start=1):
        app, _, token = (part.strip() for part in pair.partition("="))
        if not token or not re.fullmatch(r"[0-9]{1,19}", app):
            raise ValueError(f"entry {place} is not of the form appid=token")
        tokens[int(app)] = (*tokens.get(int(app), ()), _read_token(token, place))
    return tokens


def _read_token(text: str, place: int) -> Token:
    secret, *days = _UNTIL.split(text, maxsplit=1)
    if not days:
        return Token(SecretStr(text), None)
    try:
        last_day = date.fromisoformat(days[0])
    except ValueError:
        raise ValueError(f"entry {place} has no day such as 2026-12-31 after ;until=") from None
    if not secret:
        raise ValueError(f"entry {place} has no token before ;until=")
    return Token(SecretStr(secret), last_day)


def tokens_variable(file: Path | None) -> str:
    """Return the variable that the tokens come from."""
    return f"DESK_CALLBACK_TOKENS{'_FILE' if file else ''}"


def check_apps(tokens: Tokens, apps: Iterable[int], variable: str) -> None:
    if strangers := sorted(set(tokens) - set(apps)):
        raise FileProblem(f"{variable} has a token for app {strangers[0]}, which is not configured")


def read_token_file(path: Path) -> Tokens:
    content = read_file(path, most=MAX_TOKEN_FILE)
    try:
        return read_tokens(content.decode())
    except UnicodeDecodeError:
        raise FileProblem(f"{path} is not UTF-8") from None
    except ValueError as error:
        raise FileProblem(f"{path} {error}") from None

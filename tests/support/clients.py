"""Clients files for tests, and calls with a key."""

from datetime import date
from pathlib import Path
from typing import Any

from service.clients import Client, digest_of, follow_clients, new_key, new_key_id
from storage.changes import Followed

READ_ALL = ("sessions.read", "feed.read", "messages.read", "status.read")


class Clients:
    """A clients file, written anew whenever a client is added or removed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "clients.toml"
        self._tables: dict[str, str] = {}
        self._write()

    def add(
        self,
        name: str,
        *,
        apps: Any = "*",
        scopes: tuple[str, ...] = READ_ALL,
        san: tuple[str, ...] = (),
        not_after: date | None = None,
        keys: int = 1,
    ) -> str:
        """Add or replace a client; return its keys, separated by spaces."""
        made = [new_key(new_key_id()) for _ in range(keys)]
        self._tables[name] = table(name, apps, scopes, san, made, not_after)
        self._write()
        return " ".join(made)

    def change(self, name: str, before: str, after: str) -> None:
        """Change the text of a client."""
        assert before in self._tables[name]
        self._tables[name] = self._tables[name].replace(before, after)
        self._write()

    def remove(self, name: str) -> None:
        del self._tables[name]
        self._write()

    def file(self) -> Followed[tuple[Client, ...]]:
        return follow_clients(self.path, period=0.0)

    def _write(self) -> None:
        new = self.path.with_suffix(".new")
        new.write_text("\n".join(self._tables.values()))
        new.replace(self.path)


def table(
    name: str,
    apps: Any,
    scopes: tuple[str, ...],
    san: tuple[str, ...],
    keys: list[str],
    not_after: date | None,
) -> str:
    end = f", not_after = {not_after}" if not_after else ""
    hashes = [f'{{id = "{key.split("_")[1]}", sha256 = "{digest_of(key)}"{end}}}' for key in keys]
    shown = f'"{apps}"' if apps == "*" else str(list(apps))
    return (
        f'[[client]]\nname = "{name}"\napps = {shown}\nscopes = {list(scopes)}\n'
        f"san = {list(san)}\nkeys = [{', '.join(hashes)}]\n"
    )


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    """The metadata that a call with a key has."""
    return (("authorization", f"Bearer {key}"),)

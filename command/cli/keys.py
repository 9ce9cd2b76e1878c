"""`desk keys`: the clients file and its API keys. Works on the file, without the service."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from command.cli import Group, usage_errors
from command.cli.connection import FAILED, CallFailed
from command.endpoints import setting
from display.texts import count_of
from service.clients import (
    Client,
    Scope,
    digest_of,
    id_of,
    new_key,
    new_key_id,
    parse,
    read_clients,
    read_text,
)
from storage.changes import FileProblem

SOON = 30
"""Days before its end in which `desk keys check` mentions a key."""

Command = TypeVar("Command", bound=Callable[..., Any])


def _clients_file() -> str:
    with usage_errors():
        path = setting("DESK_CLIENTS_FILE")
    if path is None:
        raise click.UsageError("no clients file is named: set --file or DESK_CLIENTS_FILE")
    return path


_file = click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=_clients_file,
    show_default="DESK_CLIENTS_FILE, also from .env",
    help="The clients file.",
)


@click.group(cls=Group)
def keys() -> None:
    """Edit and check the clients file: who may call the API. A running service follows it."""


@keys.command()
@click.argument("name")
@_file
@click.option("--app", "apps", type=click.IntRange(1), multiple=True, help="SDKAppID it may read.")
@click.option("--all-apps", is_flag=True, help="It may read every app.")
@click.option(
    "--scope", "scopes", type=click.Choice(get_args(Scope)), multiple=True, help="What it may do."
)
@click.option(
    "--not-after",
    type=click.DateTime(["%Y-%m-%d"]),
    help="The last day on which the key is valid, such as 2027-03-31, in UTC. Default: no end.",
)
def create(
    name: str,
    *,
    path: Path,
    apps: tuple[int, ...],
    all_apps: bool,
    scopes: tuple[str, ...],
    not_after: datetime | None,
) -> None:
    """Make a key for the client NAME and print it, once. Adds the client if it is new.

    \b
    desk keys create board --app 1400000001 --scope sessions.read --scope feed.read > board.key
    desk keys create board --not-after 2027-03-31 > next.key
    """  # noqa: D301 (click's mark for text that is not to be wrapped)
    if apps and all_apps:
        raise click.UsageError("--app and --all-apps exclude each other")
    key_id = new_key_id()
    key = new_key(key_id)
    entry: dict[str, Any] = {"id": key_id, "sha256": digest_of(key)}
    if not_after:
        entry["not_after"] = not_after.date()
    new = {"name": name, "apps": "*" if all_apps else list(apps), "scopes": list(scopes)}
    with _locked(path.resolve().parent):
        try:
            text = _with_key(read_text(path) if path.exists() else "", new, entry)
            parse(text)
        except FileProblem as problem:
            raise CallFailed(f"{path}: {problem}", FAILED) from None
        _write(path, text)
    click.echo(key)
    click.echo(f"desk: key {key_id} of {name}, shown this once; {path} has its hash", err=True)


@keys.command("list")
@_file
def list_keys(path: Path) -> None:
    """List the clients, with their apps, scopes, certificate names and keys."""
    for client in _read(path):
        apps = client.apps if client.apps == "*" else ", ".join(map(str, client.apps))
        click.echo(f"{client.name}\n  apps    {apps}\n  scopes  {', '.join(client.scopes)}")
        for name in client.san:
            click.echo(f"  san     {name}")
        for key in client.keys:
            click.echo(
                f"  key     {key.id}, {f'until {key.not_after}' if key.not_after else 'no end'}"
            )


@keys.command()
@_file
@click.option(
    "--key-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Also say whose key is in this file.",
)
def check(path: Path, key_file: Path | None) -> None:
    """Check the file, and mention keys that end soon. Exit code 1 if anything is wrong."""
    clients = _read(path)
    today = datetime.now(UTC).date()
    for client in clients:
        for key in client.keys:
            if key.not_after and (key.not_after - today).days < SOON:
                click.echo(f"desk: {client.name}: {_end(key.id, key.not_after, today)}", err=True)
    click.echo(
        f"{count_of(len(clients), 'client')}, "
        f"{count_of(sum(len(client.keys) for client in clients), 'key')}"
    )
    if key_file:
        click.echo(f"{key_file} is a key of {_owner(clients, key_file, today)}")


def _end(key_id: str, not_after: date, today: date) -> str:
    return f"key {key_id} {'ended' if not_after < today else 'ends'} after {not_after}"


def _owner(clients: tuple[Client, ...], key_file: Path, today: date) -> str:
    key = key_file.read_text(errors="replace").strip()
    key_id = id_of(key)
    if key_id is None:
        raise CallFailed(f"{key_file} has no key: wrong form or checksum", FAILED)
    for client in clients:
        for known in client.keys:
            if (known.id, known.sha256) == (key_id, digest_of(key)):
                if known.not_after and known.not_after < today:
                    raise CallFailed(_end(known.id, known.not_after, today), FAILED)
                return client.name
    raise CallFailed(f"the key {key_id} in {key_file} is of no client", FAILED)


def _read(path: Path) -> tuple[Client, ...]:
    try:
        return read_clients(path)
    except FileProblem as problem:
        raise CallFailed(str(problem), FAILED) from None


def _with_key(text: str, new: dict[str, Any], entry: dict[str, Any]) -> str:
    """Return the text of a clients file with one key more; its comments stay."""
    import tomlkit

    parse(text)  # before the edit: its errors are clearer than those of tomlkit
    document = tomlkit.parse(text)
    clients = document.setdefault("client", tomlkit.aot())
    client = next((each for each in clients if each["name"] == new["name"]), None)
    if client is None:
        if not new["apps"] or not new["scopes"]:
            raise click.UsageError(f"{new['name']} is new: --app or --all-apps, and --scope")
        client = tomlkit.item(new)
        clients.append(client)
    elif new["apps"] or new["scopes"]:
        raise click.UsageError(f"{new['name']} exists: change its apps and scopes in the file")
    inline = tomlkit.inline_table()
    inline.update(entry)
    client.setdefault("keys", tomlkit.array().multiline(multiline=True)).append(inline)
    return tomlkit.dumps(document)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, so that two commands do not change a file in it at the same time."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, text: str) -> None:
    """Replace a file in one step; a new one is readable by its owner only."""
    path = path.resolve()
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            if path.exists():
                found = path.stat()
                os.fchmod(file.fileno(), found.st_mode & 0o777)
                os.fchown(file.fileno(), found.st_uid, found.st_gid)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

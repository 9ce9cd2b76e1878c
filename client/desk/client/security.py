"""Credentials of a client: files of TLS, the API key. A key leaves this machine over TLS only."""

import re
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc

_KEY = re.compile(r"[\x21-\x7e]+")
_TARGET = re.compile(r"(?:(?:dns|ipv4|ipv6):(?://[^/]*/)?)?(?P<host>\[[^]]*\]|[^:/]*)(?::\d+)?")


def tls_credentials(
    *, ca: Path | None = None, cert: Path | None = None, key: Path | None = None
) -> grpc.ChannelCredentials:
    """Read the files of a TLS connection, all in PEM.

    Args:
        ca: the authorities that the service's certificate may be of; None = gRPC's own list.
        cert: the client's certificate with its chain, if the service wants one.
        key: its key.

    Raises:
        ValueError: there is a `cert` without a `key`, or the reverse.
        OSError: a file cannot be read.
    """
    if (cert is None) != (key is None):
        raise ValueError("a client certificate and its key belong together")
    roots, private, chain = (path.read_bytes() if path else None for path in (ca, key, cert))
    return grpc.ssl_channel_credentials(roots, private, chain)


def read_key(path: Path) -> str:
    """Read the API key in a file.

    Raises:
        ValueError: there is none.
        OSError: the file cannot be read.
    """
    key = path.read_text(errors="replace").strip()
    if not _KEY.fullmatch(key):
        raise ValueError(f"{path} has no key")
    return key


def with_key(method: Any, key: str) -> Any:
    """Return a method of a stub that sends the key."""
    return partial(method, metadata=(("authorization", f"Bearer {key}"),)) if key else method


def check_key(key: str, target: str, *, encrypted: bool) -> None:
    """Check that a key can be sent to a target.

    Raises:
        ValueError: it is malformed, or it would leave this machine in clear text.
    """
    if key and not _KEY.fullmatch(key):
        raise ValueError("the key has spaces or other characters that no key has")
    if key and not encrypted and not _is_loopback(target):
        raise ValueError(f"a key is sent over TLS only, or to this machine, not to {target}")


def _is_loopback(target: str) -> bool:
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    match = _TARGET.fullmatch(target)
    host = match["host"].strip("[]") if match else ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"

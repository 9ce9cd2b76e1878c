"""Grants: the rights of each client in the clients file, found by the proof of a call.

A call proves who it is by a key or by the certificate of its connection. If the file takes rights
away, the open calls that rely on them end.
"""

import asyncio
import hmac
import re
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import unquote

import structlog

from service.certificates import ends_at
from service.clients import Client, Clients, Key
from service.rpc.errors import ErrorReason
from service.rpc.keys import Apps
from service.rpc.limits import caller_of

REFRESH = 0.25
"""Seconds between two looks at the clients file and at keys that end."""

WRONG_KEYS, WRONG_KEYS_PER_SECOND = 20, 1.0
"""Wrong keys that one address may try at once, and afterwards."""

MAX_ADDRESSES = 1_000
"""Addresses whose wrong keys are counted."""

MAX_PROVEN = 1_000
"""Headers with right keys that are remembered."""

MAX_KEY = 128
"""Characters of a key; longer ones are not hashed."""

_NO_HASH = "-" * 64

_log = structlog.get_logger()


class NotProven(Exception):
    """A call without a valid proof of its client.

    Attributes:
        why: the cause, for the log.
        reason: for the client.
        ended: the grant of a key that has ended; None for other causes.
    """

    def __init__(
        self,
        why: str,
        reason: ErrorReason = ErrorReason.UNAUTHENTICATED,
        ended: "Grant | None" = None,
    ) -> None:
        super().__init__(why)
        self.why = why
        self.reason = reason
        self.ended = ended


class Grant:
    """The rights that one proof gives.

    Attributes:
        client: the name for logs.
        apps: the SDKAppIDs that may be read; None = all.
        scopes: the client's.
        only_app: returns the app that 0 stands for; raises SDK_APP_ID_REQUIRED.
        calls: the open calls that rely on it.
        revoked_as: the reason for which these have been ended; None = they have not.
    """

    def __init__(self, client: Client, key: Key | None, configured: Sequence[int]) -> None:
        self.client = client.name
        self.apps = None if client.apps == "*" else frozenset(client.apps)
        self.scopes = frozenset(client.scopes)
        self.key_id = key.id if key else ""
        self.sha256 = key.sha256 if key else ""
        self.end = key.end() if key else None
        visible = [app for app in configured if self.apps and app in self.apps]
        self.only_app = Apps(visible or sorted(self.apps or ())).only
        self.calls: set[asyncio.Task[Any]] = set()
        self.revoked_as: ErrorReason | None = None

    def rights(self) -> tuple[object, ...]:
        """Return everything that calls rely on."""
        return self.client, self.apps, self.scopes, self.sha256, self.end

    def ended(self, now: float) -> bool:
        return self.end is not None and now >= self.end

    def revoke(self, reason: ErrorReason) -> None:
        """End all calls that rely on the grant."""
        self.revoked_as = reason
        calls, self.calls = self.calls, set()
        for call in calls:
            call.cancel()


FULL_GRANT = Grant(Client(name="", apps="*", scopes=("messages.read", "admin")), None, ())
"""The rights of all calls without a clients file, and of calls of open methods."""


class WrongKeys:
    """A limit on wrong keys by address. Right keys are not counted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, caller: str) -> bool:
        """Count a wrong key; return False if there were too many."""
        now = self._clock()
        left, counted_at = self._left.pop(caller, (WRONG_KEYS, now))
        left = min(WRONG_KEYS, left + (now - counted_at) * WRONG_KEYS_PER_SECOND)
        self._left[caller] = max(0.0, left - 1), now
        if len(self._left) > MAX_ADDRESSES:
            self._left.popitem(last=False)
        return left >= 1


class Grants:
    """The grants of all clients, by key and by the names of certificates.

    Args:
        clients: None: without a clients file, all calls have `FULL_GRANT`.
        sdk_app_ids: the configured apps.
        encrypted: the port has TLS. Without it keys are refused, except from loopback.
    """

    def __init__(
        self, clients: Clients | None, sdk_app_ids: Sequence[int], *, encrypted: bool
    ) -> None:
        self.clients = clients
        self._sdk_app_ids = sdk_app_ids
        self._encrypted = encrypted
        self._wrong_keys = WrongKeys()
        self._by_proof: dict[tuple[str, str], Grant] = {}  # ("key", id) or ("san", name)
        self._proven: dict[str | bytes, Grant] = {}
        self._make()

    async def follow(self) -> None:
        """Follow the clients file, if any, and the ends of keys, until cancelled."""
        clients = self.clients
        while clients:
            await asyncio.sleep(REFRESH)
            await asyncio.to_thread(clients.refresh)  # a large file takes a while
            if clients.value is not self._made_of:
                self._make()
                _log.info("clients_reloaded", clients=len(clients.value))
            now = time.time()
            for grant in self._by_proof.values():
                if grant.ended(now):
                    grant.revoke(ErrorReason.UNAUTHENTICATED)

    def of(self, context: Any) -> Grant:
        """Return the grant of a call; raises NotProven. A key that is sent counts alone."""
        keys = [value for name, value in context.invocation_metadata() if name == "authorization"]
        if not keys:
            return self._of_certificate(context.auth_context() if self._encrypted else {})
        peer = context.peer()
        if not self._encrypted and not is_loopback(peer):
            raise NotProven("key without TLS")
        if len(keys) > 1:
            raise NotProven("several keys")
        return self._of_key(keys[0], peer)

    def _make(self) -> None:
        """Make the grants anew. Those that did not change stay, with their calls."""
        self._made_of = clients = self.clients.value if self.clients else ()
        made = {
            (kind, name): Grant(client, key, self._sdk_app_ids)
            for client in clients
            for kind, name, key in (
                *(("key", key.id, key) for key in client.keys),
                *(("san", name, None) for name in client.san),
            )
        }
        before, self._by_proof = self._by_proof, made
        self._proven.clear()
        for proof, grant in before.items():
            now = made.get(proof)
            if now is None or now.sha256 != grant.sha256 or now.ended(time.time()):
                grant.revoke(ErrorReason.UNAUTHENTICATED)
            elif now.rights() != grant.rights():
                grant.revoke(ErrorReason.ACCESS_CHANGED)
            else:
                made[proof] = grant

    def _of_key(self, value: str | bytes, peer: str) -> Grant:
        grant = self._proven.get(value) or self._prove(value)
        if grant is None:
            if self._wrong_keys.allow(caller_of(peer)):
                raise NotProven("wrong key")
            raise NotProven("wrong key", ErrorReason.TOO_MANY_WRONG_KEYS)
        if grant.ended(time.time()):
            raise NotProven("key has ended", ended=grant)
        return grant

    def _prove(self, value: str | bytes) -> Grant | None:
        """Return the grant of the key in a header, and remember it until the clients change."""
        scheme, _, key = value.partition(" ") if isinstance(value, str) else ("", "", "")
        if scheme.lower() != "bearer" or len(key) > MAX_KEY:
            return None
        _, _, rest = key.partition("_")
        grant = self._by_proof.get(("key", rest.partition("_")[0]))
        # Always hashed and compared: the time must not reveal which ids exist.
        found = sha256(key.encode(errors="replace")).hexdigest()
        if not hmac.compare_digest(found, grant.sha256 if grant else _NO_HASH) or grant is None:
            return None
        if len(self._proven) < MAX_PROVEN:
            self._proven[value] = grant
        return grant

    def _of_certificate(self, auth: dict[str, Sequence[bytes]]) -> Grant:
        names = [*auth.get("peer_uri", ()), *auth.get("peer_dns", ())]
        names = names or [*auth.get("x509_common_name", ())]
        if not names:
            raise NotProven("no key")
        (certificate,) = auth["x509_pem_cert"]
        if _are_cut(tuple(names), certificate):
            raise NotProven("certificate with a NUL in a name")
        if time.time() >= _ends_at(certificate):  # since the handshake, or a resumed session
            raise NotProven("certificate has ended")
        known = (self._by_proof.get(("san", name.decode(errors="replace"))) for name in names)
        # Several names of one client are usual. Those of two clients do not say which is meant.
        grants = {grant.client: grant for grant in known if grant}
        if len(grants) != 1:
            raise NotProven(f"certificate of {'several clients' if grants else 'no client'}")
        return grants.popitem()[1]


_ends_at = lru_cache(MAX_PROVEN)(ends_at)


@lru_cache(MAX_PROVEN)
def _are_cut(names: tuple[bytes, ...], certificate: bytes) -> bool:
    """Return True if a certificate in PEM goes on after a name: gRPC cuts names at a NUL."""
    der = ssl.PEM_cert_to_DER_cert(certificate.decode())
    cut = b"|".join(map(re.escape, names))
    # After the tag of a DNS name, a URI or a text, and a length.
    return bool(re.search(rb"[\x82\x86\x0c\x13].{1,3}(?:%b)\0" % cut, der, re.DOTALL))


@lru_cache(MAX_ADDRESSES)
def is_loopback(peer: str) -> bool:
    family, _, rest = unquote(peer).partition(":")
    try:
        address = ip_address(rest.rpartition(":")[0].strip("[]"))
    except ValueError:
        return family == "unix"
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback

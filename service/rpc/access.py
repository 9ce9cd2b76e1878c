"""Access to the API: the one place in front of every method that says who may do what.

A call proves who it is by a key or by the certificate of its connection. Its rights are those of
the clients file. Its request is narrowed to its apps. Fields that it may not read, or does not
want, are left out of its answers. Denied is whatever is not allowed here.
"""

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import unquote

import structlog
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from metrics.definitions import AUTH_DENIED
from service.clients import Client, ClientsFile, Key, Scope
from service.rpc.errors import Behaviour, CallRefused, ErrorReason
from service.rpc.limits import caller_of
from service.rpc.requests import MAX_VALUES, Apps

SCOPES: dict[str, Scope | None] = {
    "desk.v1.SessionService.GetSession": "sessions.read",
    "desk.v1.SessionService.BatchGetSessions": "sessions.read",
    "desk.v1.SessionService.ListSessions": "sessions.read",
    "desk.v1.SessionService.CountSessions": "sessions.read",
    "desk.v1.SessionService.ExplainSession": "sessions.read",
    "desk.v1.SessionService.WaitForState": "sessions.read",
    "desk.v1.EventService.Subscribe": "feed.read",
    "desk.v1.EventService.ListRejections": "feed.read",
    "desk.v1.StatusService.GetStatus": "status.read",
    "grpc.health.v1.Health.Check": None,
    "grpc.health.v1.Health.List": None,
    "grpc.health.v1.Health.Watch": None,
    "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo": "status.read",
}
"""The scope that each method needs; None = open to all. No other method can be served."""

WITHOUT_APPS = frozenset(
    {
        "desk.v1.StatusService.GetStatus",
        "grpc.health.v1.Health.Check",
        "grpc.health.v1.Health.List",
        "grpc.health.v1.Health.Watch",
        "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo",
    }
)
"""Methods whose requests name no app. Any other such method cannot be served."""

MESSAGE_FIELDS = frozenset({"message", "raw_body", "client_ip", "platform", "cloud_custom_data"})
"""Fields of an event that need the scope `messages.read`."""

OMIT = "omit_"
"""Prefix of the fields of a request that leave a field of an event out of the answer."""

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

CACHED = 16
"""Messages of streams with fields left out, kept for other streams; each at most ~1 MiB."""

_NO_HASH = "-" * 64

_DENIED = {
    ErrorReason.UNAUTHENTICATED: "the call has no valid key or certificate",
    ErrorReason.TOO_MANY_WRONG_KEYS: "too many wrong keys from this address; try again later",
    ErrorReason.APP_NOT_ALLOWED: "this client may read no app",
    ErrorReason.ACCESS_CHANGED: "the rights of this client have changed; call again",
}

_log = structlog.get_logger()

Reduce = Callable[[bytes], bytes]
GrantedBehaviour = Callable[[Any, Any, "Grant"], Awaitable[Any]]
Path = tuple[str, ...]


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


EVERYTHING = Grant(Client(name="", apps="*", scopes=("messages.read",)), None, ())
"""The rights of everybody where there is no clients file, and of calls of open methods."""


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


class Access:
    """The clients and their grants.

    Args:
        clients: None lets everybody do everything.
        sdk_app_ids: the configured apps.
        encrypted: the port has TLS. Without it keys are refused, except from loopback.
    """

    def __init__(
        self, clients: ClientsFile | None, sdk_app_ids: Sequence[int], *, encrypted: bool
    ) -> None:
        self.clients = clients
        self._sdk_app_ids = sdk_app_ids
        self._encrypted = encrypted
        self._wrong_keys = WrongKeys()
        self._by_key: dict[str, Grant] = {}
        self._by_name: dict[str, Grant] = {}
        self._proven: dict[str | bytes, Grant] = {}
        self._grant()

    async def follow(self) -> None:
        """Follow the clients file, if any, and the ends of keys, until cancelled."""
        clients = self.clients
        while clients:
            await asyncio.sleep(REFRESH)
            if await asyncio.to_thread(clients.refresh):  # a large file takes a while
                self._grant()
            now = time.time()
            for grant in self._by_key.values():
                if grant.ended(now):
                    grant.revoke(ErrorReason.UNAUTHENTICATED)

    def grant_of(self, context: Any) -> tuple[Grant | None, str]:
        """Return the grant of a call's proof; or None, and why, for the log."""
        keys = [value for name, value in context.invocation_metadata() if name == "authorization"]
        if keys:
            if not self._encrypted and not _is_loopback(context.peer()):
                return None, "key without TLS"
            return self._of_key(keys[0]) if len(keys) == 1 else (None, "several keys")
        return self._of_certificate(context.auth_context()) if self._encrypted else (None, "no key")

    def refuse_proof(self, caller: str, why: str) -> ErrorReason:
        """Count a call without a valid proof; return the reason to refuse it with."""
        if why == "wrong key" and not self._wrong_keys.allow(caller):
            return ErrorReason.TOO_MANY_WRONG_KEYS
        return ErrorReason.UNAUTHENTICATED

    def _grant(self) -> None:
        """Make the grants anew. Those that did not change stay, with their calls."""
        clients = self.clients.clients if self.clients else ()
        apps = self._sdk_app_ids
        by_key = {key.id: Grant(each, key, apps) for each in clients for key in each.keys}
        by_name = {name: Grant(each, None, apps) for each in clients for name in each.san}
        self._proven.clear()
        before = (self._by_key, self._by_name)
        self._by_key, self._by_name = by_key, by_name
        for old, new in zip(before, (by_key, by_name), strict=True):
            for proof, grant in old.items():
                now = new.get(proof)
                if now is None or now.sha256 != grant.sha256 or now.ended(time.time()):
                    grant.revoke(ErrorReason.UNAUTHENTICATED)
                elif now.rights() != grant.rights():
                    grant.revoke(ErrorReason.ACCESS_CHANGED)
                else:
                    new[proof] = grant

    def _of_key(self, value: str | bytes) -> tuple[Grant | None, str]:
        grant = self._proven.get(value) or self._prove(value)
        if grant is None:
            return None, "wrong key"
        return (None, "key has ended") if grant.ended(time.time()) else (grant, "")

    def _prove(self, value: str | bytes) -> Grant | None:
        """Return the grant of the key in a header, and remember it until the clients change."""
        scheme, _, key = value.partition(" ") if isinstance(value, str) else ("", "", "")
        if scheme.lower() != "bearer" or len(key) > MAX_KEY:
            return None
        _, _, rest = key.partition("_")
        grant = self._by_key.get(rest.partition("_")[0])
        # Always hashed and compared: the time must not reveal which ids exist.
        found = sha256(key.encode(errors="replace")).hexdigest()
        if not hmac.compare_digest(found, grant.sha256 if grant else _NO_HASH) or grant is None:
            return None
        if len(self._proven) < MAX_PROVEN:
            self._proven[value] = grant
        return grant

    def _of_certificate(self, auth: dict[str, Sequence[bytes]]) -> tuple[Grant | None, str]:
        names = [*auth.get("peer_uri", ()), *auth.get("peer_dns", ())]
        names = names or [*auth.get("x509_common_name", ())]
        for name in names:
            if grant := self._by_name.get(name.decode(errors="replace")):
                return grant, ""
        return None, "certificate of no client" if names else "no key"


class Gate:
    """The access to one method.

    Raises:
        LookupError: nobody has said who may call it, or its requests name no app.
    """

    def __init__(self, access: Access, method: MethodDescriptor) -> None:
        self._access = access
        self._method = method.full_name
        self._scope = SCOPES[self._method]
        self._apps = list(_leading_to(method.input_type, "sdk_app_id", "sdk_app_ids"))
        if not self._apps and self._method not in WITHOUT_APPS:
            raise LookupError(f"the requests of {self._method} name no app")
        self._response: Any = GetMessageClass(method.output_type)
        self._records = list(_leading_to(method.output_type, "raw_body"))
        self._masks = [name for name in method.input_type.fields_by_name if name.startswith(OMIT)]
        self._lists_apps = "sdk_app_ids" in method.output_type.fields_by_name
        self._reduced = self._reduce
        if method.server_streaming:  # streams with the same filter are sent the same message
            self._reduced = lru_cache(CACHED)(self._reduce)

    def guard(self, behaviour: GrantedBehaviour) -> Behaviour:
        """Wrap the behaviour of the method: it gets the grant of each call."""
        if self._scope is None or self._access.clients is None:
            return lambda requests, context: behaviour(requests, context, EVERYTHING)

        async def guarded(requests: Any, context: Any) -> Any:
            grant = self._admit(context)
            call: Any = asyncio.current_task()
            grant.calls.add(call)
            try:
                return await behaviour(requests, context, grant)
            except asyncio.CancelledError:
                if grant.revoked_as is None:
                    raise
                call.uncancel()
                raise self._denied(grant.revoked_as, "revoked", context, grant) from None
            finally:
                grant.calls.discard(call)

        return guarded

    def narrow(self, request: Message, grant: Grant, context: Any) -> None:
        """Narrow a request to the apps of its client.

        Raises:
            CallRefused: APP_NOT_ALLOWED, SDK_APP_ID_REQUIRED.
        """
        if grant.apps is None:
            return
        for path in self._apps:
            for holder in _at(request, path):
                if not _narrow(holder, grant, grant.apps):
                    raise self._denied(ErrorReason.APP_NOT_ALLOWED, "app", context, grant)

    def reducer(self, grant: Grant, request: Message | None = None) -> Reduce:
        """Return the function that leaves out of an answer what is not allowed or not wanted."""
        omitted = frozenset[str]()
        if self._records and "messages.read" not in grant.scopes:
            omitted = MESSAGE_FIELDS
        if request is not None:
            masks = (name for name in self._masks if getattr(request, name))
            omitted = omitted.union(name.removeprefix(OMIT) for name in masks)
        apps = grant.apps if self._lists_apps else None
        if not omitted and apps is None:
            return lambda answer: answer
        return lambda answer: self._reduced(answer, omitted, apps)

    def _reduce(self, answer: bytes, omitted: frozenset[str], apps: frozenset[int] | None) -> bytes:
        message: Any = self._response.FromString(answer)
        for path in self._records if omitted else ():
            for event in _at(message, path, unset=False):
                for field in omitted:
                    event.ClearField(field)
        if apps is not None:
            message.sdk_app_ids[:] = [app for app in message.sdk_app_ids if app in apps]
        reduced: bytes = message.SerializeToString()
        return reduced

    def _admit(self, context: Any) -> Grant:
        grant, why = self._access.grant_of(context)
        if grant is None:
            reason = self._access.refuse_proof(caller_of(context.peer()), why)
            raise self._denied(reason, why, context)
        if self._scope not in grant.scopes:
            raise self._denied(ErrorReason.SCOPE_MISSING, "scope", context, grant)
        return grant

    def _denied(
        self, reason: ErrorReason, why: str, context: Any, grant: Grant | None = None
    ) -> CallRefused:
        """Make the error of a denied call, and log it: this is the audit log."""
        caller, client = caller_of(context.peer()), grant.client if grant else ""
        AUTH_DENIED.values[(reason.text.lower(),)] += 1
        _log.warning(
            "access_denied",
            reason=reason.text,
            why=why,
            method=self._method,
            peer=caller,
            client=client,
            key_id=grant.key_id if grant else "",
            throttle=(reason.text, why, caller, client),
        )
        match reason:
            case ErrorReason.SCOPE_MISSING:
                return CallRefused(reason, f"{self._method} needs the scope {self._scope}")
            case ErrorReason.APP_NOT_ALLOWED if grant and grant.apps:
                own = ", ".join(map(str, sorted(grant.apps)[:MAX_VALUES]))
                return CallRefused(reason, f"this client may read no other app than {own}")
        return CallRefused(reason, _DENIED[reason])


def _narrow(holder: Any, grant: Grant, apps: frozenset[int]) -> bool:
    """Narrow a key or a filter to the apps of a client; return False if it names another."""
    if "sdk_app_ids" in holder.DESCRIPTOR.fields_by_name:
        if holder.sdk_app_ids:
            return apps.issuperset(holder.sdk_app_ids)
        holder.sdk_app_ids.extend(sorted(apps))
        return True
    holder.sdk_app_id = holder.sdk_app_id or grant.only_app()
    return holder.sdk_app_id in apps


def _leading_to(message: Descriptor, *fields: str) -> Iterator[Path]:
    """Yield the fields that lead from a message to those that have one of the fields."""
    if any(field in message.fields_by_name for field in fields):
        yield ()
        return
    for field in message.fields:
        if field.message_type and field.message_type.file.package == message.file.package:
            for path in _leading_to(field.message_type, *fields):
                yield (field.name, *path)


def _at(message: Any, path: Path, *, unset: bool = True) -> list[Any]:
    """Return the messages at a path, also (by default) those in a field that is not set."""
    found = [message]
    for name in path:
        if found and found[0].DESCRIPTOR.fields_by_name[name].is_repeated:
            found = [each for holder in found for each in getattr(holder, name)]
        else:
            found = [getattr(holder, name) for holder in found if unset or holder.HasField(name)]
    return found


@lru_cache(MAX_ADDRESSES)
def _is_loopback(peer: str) -> bool:
    family, _, rest = unquote(peer).partition(":")
    try:
        address = ip_address(rest.rpartition(":")[0].strip("[]"))
    except ValueError:
        return family == "unix"
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback

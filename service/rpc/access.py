"""Access control, in front of every method.

A request is narrowed to the apps of its client. Fields that the client may not read, or does not
want, are redacted in the answers. A call that no rule here allows is denied. Must not know how a
call proves its client.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import lru_cache
from typing import Any

import structlog
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from metrics.definitions import AUTH_DENIED
from service.clients import Scope
from service.rpc.checks import MAX_VALUES
from service.rpc.errors import Behaviour, CallRefused, ErrorReason
from service.rpc.grants import FULL_GRANT, Grant, Grants, NotProven, is_loopback
from service.rpc.limits import caller_of

SCOPES: dict[str, Scope | None] = {
    "desk.v1.SessionService.GetSession": "sessions.read",
    "desk.v1.SessionService.BatchGetSessions": "sessions.read",
    "desk.v1.SessionService.ListSessions": "sessions.read",
    "desk.v1.SessionService.CountSessions": "sessions.read",
    "desk.v1.SessionService.ExplainSession": "sessions.read",
    "desk.v1.SessionService.WaitForState": "sessions.read",
    "desk.v1.EventService.Subscribe": "feed.read",
    "desk.v1.EventService.ListRejections": "feed.read",
    "desk.v1.EventService.CountEvents": "feed.read",
    "desk.v1.BoardService.GetBoard": "sessions.read",
    "desk.v1.BoardService.WatchBoard": "sessions.read",
    "desk.v1.ReportService.GetReport": "sessions.read",
    "desk.v1.StatusService.GetStatus": "status.read",
    "desk.v1.StatusService.ListSubscribers": "status.read",
    "desk.v1.AdminService.Forget": "admin",
    "desk.v1.AdminService.ListForgotten": "admin",
    "grpc.health.v1.Health.Check": None,
    "grpc.health.v1.Health.List": None,
    "grpc.health.v1.Health.Watch": None,
    "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo": "status.read",
}
"""The scope that each method needs; None = open to all. No other method can be served."""

WITHOUT_APPS = frozenset(
    {
        "desk.v1.StatusService.GetStatus",
        "desk.v1.StatusService.ListSubscribers",
        "grpc.health.v1.Health.Check",
        "grpc.health.v1.Health.List",
        "grpc.health.v1.Health.Watch",
        "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo",
    }
)
"""Methods whose requests name no app. Another method without apps cannot be served."""

MESSAGE_FIELDS = frozenset({"message", "raw_body", "client_ip", "platform", "cloud_custom_data"})
"""Fields of an event that need the scope `messages.read`."""

OMIT = "omit_"
"""Prefix of the fields of a request that leave a field of an event out of the answer."""

CACHED = 16
"""Messages of streams with fields left out, kept for other streams; each at most ~1 MiB."""

_DENIED = {
    ErrorReason.UNAUTHENTICATED: "the call has no valid key or certificate",
    ErrorReason.TOO_MANY_WRONG_KEYS: "too many wrong keys from this address; try again later",
    ErrorReason.APP_NOT_ALLOWED: "this client may read no app",
    ErrorReason.ACCESS_CHANGED: "the rights of this client have changed; call again",
}

_log = structlog.get_logger()

Redact = Callable[[bytes], bytes]
GrantedBehaviour = Callable[[Any, Any, "Grant"], Awaitable[Any]]
Path = tuple[str, ...]


class Gate:
    """The access to one method.

    Raises:
        LookupError: `SCOPES` lacks it, or its requests name no app and `WITHOUT_APPS` lacks it.
    """

    def __init__(self, grants: Grants, method: MethodDescriptor) -> None:
        self._grants = grants
        self._method = method.full_name
        self._scope = SCOPES[self._method]
        self._apps = list(_paths_to(method.input_type, "sdk_app_id", "sdk_app_ids"))
        if not self._apps and self._method not in WITHOUT_APPS:
            raise LookupError(f"the requests of {self._method} name no app")
        self._response: Any = GetMessageClass(method.output_type)
        self._records = list(_paths_to(method.output_type, "raw_body"))
        self._masks = [name for name in method.input_type.fields_by_name if name.startswith(OMIT)]
        in_answers = _paths_to(method.output_type, "sdk_app_id", "sdk_app_ids")
        self._has_apps = not self._apps and any(True for _ in in_answers)
        self._redacted = self._redact
        if method.server_streaming:  # streams with the same filter are sent the same message
            self._redacted = lru_cache(CACHED)(self._redact)

    def guard(self, behaviour: GrantedBehaviour) -> Behaviour:
        """Wrap the behaviour of the method: it gets the grant of each call."""
        is_open = self._grants.clients is None and self._scope != "admin"
        if self._scope is None or is_open:
            return lambda requests, context: behaviour(requests, context, FULL_GRANT)

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

    def redactor(self, grant: Grant, request: Message | None = None) -> Redact:
        """Return the function that removes the fields that are not allowed or not wanted."""
        omitted = frozenset[str]()
        if self._records and "messages.read" not in grant.scopes:
            omitted = MESSAGE_FIELDS
        if request is not None:
            masks = (name for name in self._masks if getattr(request, name))
            omitted = omitted.union(name.removeprefix(OMIT) for name in masks)
        apps = grant.apps if self._has_apps else None
        if not omitted and apps is None:
            return lambda answer: answer
        return lambda answer: self._redacted(answer, omitted, apps)

    def _redact(self, answer: bytes, omitted: frozenset[str], apps: frozenset[int] | None) -> bytes:
        message: Any = self._response.FromString(answer)
        for path in self._records if omitted else ():
            for event in _at(message, path, unset=False):
                for field in omitted:
                    event.ClearField(field)
        if apps is not None:
            _leave_out_others(message, apps)
        redacted: bytes = message.SerializeToString()
        return redacted

    def _admit(self, context: Any) -> Grant:
        if self._grants.clients is None:  # whoever can connect may read, but not erase
            if is_loopback(context.peer()):
                return FULL_GRANT
            raise self._denied(ErrorReason.SCOPE_MISSING, "no clients file", context)
        try:
            grant = self._grants.of(context)
        except NotProven as error:
            raise self._denied(error.reason, error.why, context, error.ended) from None
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


def _leave_out_others(message: Any, apps: frozenset[int]) -> None:
    """Remove the parts of a message, at any depth, that are about other apps."""
    for field, value in message.ListFields():
        if field.name == "sdk_app_ids":
            value[:] = [app for app in value if app in apps]
        elif field.message_type and not field.is_repeated:
            _leave_out_others(value, apps)
        elif field.message_type and "sdk_app_id" in field.message_type.fields_by_name:
            kept = [each for each in value if each.sdk_app_id in apps]
            del value[:]
            value.extend(kept)


def _paths_to(message: Descriptor, *fields: str) -> Iterator[Path]:
    """Yield the fields that lead from a message to those that have one of the fields."""
    if any(field in message.fields_by_name for field in fields):
        yield ()
        return
    for field in message.fields:
        if field.message_type and field.message_type.file.package == message.file.package:
            for path in _paths_to(field.message_type, *fields):
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

"""The sessions and malformed callbacks to forget: chosen from the view, in bounded steps.

Each step goes on after the last place that was examined, so that others may forget meanwhile.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import NamedTuple

import msgspec

from desk.v1.event_pb2 import SessionRecord
from desk.v1.session_pb2 import Session
from journal.entry import NewEntry
from journal.forgetting import MAX_FORGOTTEN, forget_entry
from service.positions import position_of, revision_of
from service.records import received_at
from service.session import SessionKey
from service.view import index_pages
from service.view.errors import ViewUnavailable
from service.view.index_pages import FIRST, Order, Place
from service.view.progress import Progress
from service.view.reader import Reader
from service.view.selection import Between, SessionSelection

BEHIND = 60_000
"""Milliseconds that the view may be behind the journal."""

Append = Callable[[NewEntry], int]
"""Appends a FORGET entry to the journal, and returns its revision once it is durable. Blocks."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Choice of what to forget. One field is set beside the apps.

    Attributes:
        sdk_app_ids: of these apps; empty = of all.
        sessions: keys of sessions, 1 to `MAX_FORGOTTEN`.
        client_user_id: a user: all sessions of that user, and malformed callbacks that name it.
        agent_id: an agent: all sessions in which that agent took part, and likewise.
        silent_before: Unix time (ms): sessions without an event and without a callback since then.
        malformed_before: Unix time (ms): malformed callbacks that were received earlier.
    """

    sdk_app_ids: tuple[int, ...] = ()
    sessions: tuple[SessionKey, ...] = ()
    client_user_id: str = ""
    agent_id: str = ""
    silent_before: int | None = None
    malformed_before: int | None = None


class Found(NamedTuple):
    """A session to forget, or a malformed callback: that has no session id.

    Attributes:
        first: revision of its first callback.
        last: revision of its last callback.
    """

    sdk_app_id: int
    session_id: str
    first: int
    last: int


Chosen = tuple[list[Found], Place | None]
"""Findings of a search, and the place after which it goes on; None at its end."""

Search = Callable[[Reader, Target, Place], Chosen]


class Start(NamedTuple):
    """The place at which a step begins: the number of a search, and a place in it."""

    search: int = 0
    after: Place = FIRST


class Step(NamedTuple):
    """Findings of a step, and the beginning of the next one; None at the end."""

    found: list[Found]
    following: Start | None

    def counts(self) -> tuple[int, int]:
        """Return the numbers of sessions and of malformed callbacks."""
        sessions = sum(bool(each.session_id) for each in self.found)
        return sessions, len(self.found) - sessions


def step(reader: Reader, target: Target, start: Start, now: int) -> Step:
    """Choose at most `MAX_FORGOTTEN` sessions or callbacks, at `now` (Unix time, ms).

    Malformed callbacks that name one of the sessions are chosen as well.

    Raises:
        ViewUnavailable: as `check_current`.
    """
    searches = _searches(target)
    with reader.snapshot() as progress:
        check_current(progress, now)
        found, after = searches[start.search](reader, target, start.after)
        found += _malformed_of(reader, target, found)
    if after:
        return Step(found, start._replace(after=after))
    following = start.search + 1
    return Step(found, Start(following) if following < len(searches) else None)


def missed(reader: Reader, target: Target, found: Iterable[Found], before: int) -> Step:
    """Choose malformed callbacks that name what a step has found, and came after its choice.

    The step's entries are applied, the last one at the revision `before`. They do not forget these
    callbacks, because they do not list them: no subscriber is told of them.
    """
    malformed = _malformed_of(reader, target, found)
    return Step([each for each in malformed if each.last < before], None)


def newest_event(reader: Reader) -> int:
    """Return the time (ms) of the newest event of a session, or of its receipt if that is earlier.

    The one is by the clock of Desk, the other by that of a gateway. If no session has begun, it is
    the receipt of the newest callback; 0 if there is none.
    """
    newest_first = Order("last_event_at", descending=True)
    with reader.snapshot():
        page = index_pages.page(reader, SessionSelection(), newest_first, None, 1)
        for session in map(Session.FromString, page.sessions):
            if found := _found(reader, session.sdk_app_id, session.session_id):
                return min(session.last_event_at.ToMilliseconds(), _last(reader, found))
        return reader.last_received()


def check_current(progress: Progress, now: int) -> None:
    """Refuse to choose from a view that is behind the journal.

    The journal may have more of what is selected, or a callback of a session that seems silent.

    Raises:
        ViewUnavailable: it is behind.
    """
    if progress.problem or now - (progress.behind_since or now) > BEHIND:
        raise ViewUnavailable("the view is behind the journal")


def forget(found: Iterable[Found], append: Append, now: int) -> list[int]:
    """Append FORGET entries for what a step has found, each of one app; return their revisions."""
    by_app: defaultdict[int, list[Found]] = defaultdict(list)
    for each in found:
        by_app[each.sdk_app_id].append(each)
    return [
        append(_entry(app, now, of_app[start : start + MAX_FORGOTTEN]))
        for app, of_app in sorted(by_app.items())
        for start in range(0, len(of_app), MAX_FORGOTTEN)
    ]


def _entry(sdk_app_id: int, now: int, found: list[Found]) -> NewEntry:
    return forget_entry(
        sdk_app_id,
        now,
        session_ids=[each.session_id for each in found if each.session_id],
        revisions=[each.first for each in found if not each.session_id],
        up_to=max(each.last for each in found),
    )


def _searches(target: Target) -> Sequence[Search]:
    if target.sessions:
        return (_named,)
    if target.malformed_before is not None:
        return (_malformed,)
    if target.silent_before is not None:
        return _begun, _not_begun
    return _begun, _not_begun, _malformed


def _named(reader: Reader, target: Target, _: Place) -> Chosen:
    return [found for key in target.sessions if (found := _found(reader, *key))], None


def _begun(reader: Reader, target: Target, after: Place) -> Chosen:
    selection = SessionSelection(
        sdk_app_ids=target.sdk_app_ids,
        client_user_ids=(target.client_user_id,) if target.client_user_id else (),
        active=Between(None, target.silent_before),
    )
    order = Order("begun_at" if target.silent_before is None else "last_event_at", descending=False)
    page = index_pages.page(reader, selection, order, after, MAX_FORGOTTEN)
    sessions = map(Session.FromString, page.sessions)
    chosen = (
        _found(reader, session.sdk_app_id, session.session_id)
        for session in sessions
        if not target.agent_id or _took_part(reader, session, target.agent_id)
    )
    return _silent(reader, target, chosen), page.following


def _not_begun(reader: Reader, target: Target, after: Place) -> Chosen:
    """Choose among the sessions of which callbacks came, but no SessionBegin."""
    names = {"client_user_id": target.client_user_id, "agent_id": target.agent_id}
    keys = reader.not_begun(after[0], MAX_FORGOTTEN)
    chosen = (
        _found(reader, app, name)
        for app, name, first in keys
        if (not target.sdk_app_ids or app in target.sdk_app_ids)
        and all(reader.is_named(first, column, value) for column, value in names.items() if value)
    )
    following = (keys[-1][2], 0) if len(keys) == MAX_FORGOTTEN else None
    return _silent(reader, target, chosen), following


def _malformed(reader: Reader, target: Target, after: Place) -> Chosen:
    chosen: list[Found] = []
    seen = position = 0
    for position, record, app in reader.malformed(after[0], MAX_FORGOTTEN):
        seen += 1
        if (not target.sdk_app_ids or app in target.sdk_app_ids) and _is_chosen(target, record):
            chosen.append(_single(app, revision_of(position)))
    return chosen, (position, 0) if seen == MAX_FORGOTTEN else None


def _malformed_of(reader: Reader, target: Target, found: Iterable[Found]) -> list[Found]:
    """Choose malformed callbacks that name a session, but those that `_malformed` finds."""
    return [
        _single(app, revision)
        for app, session_id in target.sessions or map(itemgetter(0, 1), found)
        if session_id
        for revision in reader.malformed_of(app, session_id)
        for _, record in reader.records([position_of(revision)])
        if not _is_chosen(target, record)
    ]


def _is_chosen(target: Target, record: bytes) -> bool:
    """Return True if a malformed callback is chosen whatever session it names."""
    if target.malformed_before is not None:
        return received_at(record) < target.malformed_before
    names = {b"ClientUserId": target.client_user_id, b"AgentId": target.agent_id}
    body = SessionRecord.FromString(record).event.raw_body
    return any(value in _texts(body, field) for field, value in names.items() if value)


def _texts(body: bytes, field: bytes) -> Iterator[str]:
    """Find the texts of a field of JSON in a body, which may be cut off or broken elsewhere."""
    for literal in re.findall(rb'"%b"\s*:\s*("(?:[^"\\]|\\.)*")' % field, body, re.DOTALL):
        with suppress(ValueError):
            yield json.loads(literal, strict=False)


def _single(sdk_app_id: int, revision: int) -> Found:
    return Found(sdk_app_id, "", revision, revision)


def _found(reader: Reader, sdk_app_id: int, session_id: str) -> Found | None:
    span = reader.span(sdk_app_id, session_id)
    return Found(sdk_app_id, session_id, span[0], revision_of(span[1])) if span else None


def _took_part(reader: Reader, session: Session, agent_id: str) -> bool:
    if agent_id in session.agent_ids:
        return True
    # The list has the last agents, and none of whom all callbacks were rejected.
    if session.agent_count == len(session.agent_ids) and not session.rejected_events:
        return False
    span = reader.span(session.sdk_app_id, session.session_id)
    return span is not None and reader.is_named(span[0], "agent_id", agent_id)


def _silent(reader: Reader, target: Target, chosen: Iterable[Found | None]) -> list[Found]:
    """Leave out sessions with a late callback: the times of events are those of other clocks."""
    until = target.silent_before
    return [each for each in chosen if each and (until is None or _last(reader, each) < until)]


def _last(reader: Reader, found: Found) -> int:
    """Return the time at which the last callback of a session was received."""
    ((_, record),) = reader.records([position_of(found.last)])
    return received_at(record)

"""AdminService.Forget over a real worker: what is chosen, counted, appended; who may ask."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from structlog.testing import capture_logs

from desk.client import Client, InvalidRequest
from desk.v1.admin_service_pb2 import (
    ForgetRequest,
    ForgetResponse,
    ListForgottenRequest,
    SessionIds,
)
from desk.v1.event_pb2 import Forgotten
from desk.v1.status_pb2 import GetStatusRequest
from journal.entry import Kind
from journal.errors import Unavailable
from journal.forgetting import ForgetList, forget_list_of
from service import forget_targets
from service.rpc.limits import Limits
from tests.support.callbacks import APP, NOON, body, life
from tests.support.clients import Clients, bearer
from tests.support.commands import invoke
from tests.support.model import DAY
from tests.support.rpc import Worker, World, fields, reason, refusal, until, worker, world

OTHER = 8
CODES = grpc.StatusCode


def callbacks() -> list[bytes]:
    """Three sessions that have begun, two that have not, and one malformed callback."""
    return [
        *life("SessionBegin", session_id="of-eve", ClientUserId="eve"),
        *life("SessionBegin", "TransferringToHuman", session_id="of-bob", ClientUserId="bob"),
        body("TransferToHumanSuccess", NOON + 9_000, session_id="of-bob", AgentId="ann"),
        body("AgentForward", NOON + 10_000, session_id="of-bob", AgentId="zoe"),
        *life("SessionBegin", session_id="rejected", ClientUserId="bob"),
        body("Human.AgentSendMsg", NOON + 9_000, session_id="rejected", AgentId="ann"),
        body("ChatBot.UserSendMsg", NOON, session_id="not-begun", ClientUserId="eve"),
        body("Human.AgentSendMsg", NOON, session_id="not-begun-either", AgentId="ann"),
        b"not json, by eve",
    ]


@pytest.fixture
def made() -> Iterator[World]:
    with world() as made:
        made.append(*callbacks())
        made.append(*life("SessionBegin", session_id="of-eve", ClientUserId="eve"), app=OTHER)
        made.wait()
        yield made


def forgotten(made: World) -> list[ForgetList]:
    """The lists of all FORGET entries."""
    entries = made.journal.read(0, limit=1_000)
    return [forget_list_of(entry) for entry in entries if entry.kind == Kind.FORGET]


async def forget(serving: Worker, *, metadata: Any = None, **wanted: Any) -> list[ForgetResponse]:
    request = ForgetRequest(**{"sdk_app_id": APP, **wanted})
    return [answer async for answer in serving.admin.Forget(request, metadata=metadata)]


def at(milliseconds: int) -> Timestamp:
    time = Timestamp()
    time.FromMilliseconds(milliseconds)
    return time


LATER = at(NOON + 10**12)
ALL = {"of-eve", "of-bob", "rejected", "not-begun", "not-begun-either"}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({"sessions": SessionIds(session_ids=["of-bob", "unheard-of", "of-bob"])}, {"of-bob"}),
        ({"client_user_id": "eve"}, {"of-eve", "not-begun"}),
        ({"agent_id": "ann"}, {"of-bob", "rejected", "not-begun-either"}),
        ({"agent_id": "zoe"}, {"of-bob"}),
        ({"silent_before": LATER}, ALL),
        ({"silent_before": at(NOON)}, set()),
        ({"client_user_id": "nobody"}, set()),
    ],
)
async def test_sessions_are_chosen_by(made: World, target: Any, expected: set[str]):
    async with worker(made, apps=(APP, OTHER)) as serving:
        *_, answer = await forget(serving, **target)
    listed = forgotten(made)
    assert {name for each in listed for name in each.session_ids} == expected
    assert (answer.complete, answer.sessions, answer.malformed) == (True, len(expected), 0)


async def test_an_agent_whom_many_followed_took_part(made: World):
    names = [f"agent-{number}" for number in range(25)]
    made.append(
        *life("SessionBegin", "TransferringToHuman", session_id="long"),
        body("TransferToHumanSuccess", NOON + 30_000, session_id="long", AgentId="the-first"),
        *(
            body("AgentForward", NOON + 40_000 + n, session_id="long", AgentId=name)
            for n, name in enumerate(names)
        ),
    )
    made.wait()
    async with worker(made, apps=(APP, OTHER)) as serving:
        (*_, answer) = await forget(serving, agent_id="the-first")
    assert answer.sessions == 1
    assert forgotten(made)[-1].session_ids == ("long",)


async def test_two_calls_at_once_do_no_harm(made: World):
    async with worker(made, apps=(APP, OTHER)) as serving:
        calls = [forget(serving, client_user_id="eve") for _ in range(2)]
        for *_, answer in await asyncio.gather(*calls):
            assert answer.complete
            assert answer.sessions <= 2
        (answer,) = (await forget(serving, client_user_id="eve", dry_run=True))[-1:]
    assert answer.sessions == 0


async def test_a_thousand_long_ids_are_one_request(made: World):
    async with worker(made, apps=(APP, OTHER)) as serving:
        ids = [*(f"{'x' * 900}-{number}" for number in range(999)), "of-bob"]
        (*_, answer) = await forget(serving, sessions=SessionIds(session_ids=ids))
    assert answer.sessions == 1


async def test_malformed_callbacks_are_forgotten_by_their_revision(made: World):
    async with worker(made, apps=(APP, OTHER)) as serving:
        (answer,) = await forget(serving, malformed_before=LATER)
        (nothing,) = await forget(serving, malformed_before=at(1))
    (listed,) = forgotten(made)
    malformed = next(
        entry.revision for entry in made.journal.read(0, limit=99) if entry.body[:3] == b"not"
    )
    assert (listed.session_ids, listed.revisions) == ((), (malformed,))
    assert (answer.malformed, answer.first_revision, answer.last_revision) == (
        1,
        malformed,
        malformed,
    )
    assert (nothing.complete, nothing.malformed) == (True, 0)


async def test_an_answer_tells_the_revisions_that_are_gone_and_those_of_the_entries(made: World):
    head = made.journal.head()
    async with worker(made, apps=(APP, OTHER)) as serving:
        (*_, answer) = await forget(serving, sessions=SessionIds(session_ids=["of-bob"]))
    assert (answer.first_revision, answer.last_revision) == (2, 5)
    assert list(answer.forget_revisions) == [head + 1]
    assert answer.header.revision >= head + 1, "the view has applied it"
    (listed,) = forgotten(made)
    assert listed.up_to == 5


async def test_a_dry_run_counts_and_appends_nothing(made: World):
    async with worker(made, apps=(APP, OTHER)) as serving:
        (*_, answer) = await forget(serving, client_user_id="eve", dry_run=True)
    assert (answer.sessions, answer.complete) == (2, True)
    assert not answer.forget_revisions
    assert not forgotten(made)


async def test_many_are_forgotten_in_steps(made: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(forget_targets, "MAX_FORGOTTEN", 2)
    async with worker(made, apps=(APP, OTHER)) as serving:
        answers = await forget(serving, silent_before=LATER)
    assert [len(each.session_ids) for each in forgotten(made)] == [2, 1, 2]
    assert [answer.sessions for answer in answers] == [2, 3, 5, 5]
    assert [answer.complete for answer in answers] == [False, False, False, True]
    revisions = [number for answer in answers for number in answer.forget_revisions]
    assert revisions == sorted(set(revisions))


EARLY = [
    body("ChatBot.UserSendMsg", NOON + (3 + n) * DAY, session_id=name, ClientUserId="eve")
    for n, name in enumerate(("of-eve", "of-eve", "of-eve", "nothing-else"))
]
"""Callbacks that are malformed because they came too early, and name a session all the same."""


@pytest.mark.parametrize(
    ("target", "sessions", "malformed"),
    [
        ({"client_user_id": "eve"}, {"of-eve", "not-begun"}, [10, 11, 12, 13]),
        ({"sessions": SessionIds(session_ids=["of-eve"])}, {"of-eve"}, [10, 11, 12]),
        ({"sessions": SessionIds(session_ids=["nothing-else"])}, set(), [13]),
    ],
)
async def test_malformed_callbacks_that_name_a_session_are_listed_with_it(
    made: World, target: Any, sessions: set[str], malformed: list[int]
):
    first = made.append(*EARLY) - 3
    made.wait()
    async with worker(made, apps=(APP, OTHER)) as serving:
        (*_, counted) = await forget(serving, dry_run=True, **target)
        (*_, answer) = await forget(serving, **target)
        (*_, left) = await forget(serving, **target)
    listed = forgotten(made)
    assert {name for each in listed for name in each.session_ids} == sessions
    revisions = [revision for each in listed for revision in each.revisions]
    assert revisions == [first + number - 10 for number in malformed]
    for each in (counted, answer):
        assert (each.sessions, each.malformed) == (len(sessions), len(malformed))
    assert (left.sessions, left.malformed) == (0, 0)


@pytest.mark.parametrize("target", [{"client_user_id": "bée"}, {"agent_id": "ann"}])
async def test_malformed_callbacks_that_name_a_user_or_an_agent_are_forgotten(
    made: World, target: Any
):
    fields = dict(zip(("client_user_id", "agent_id"), ("ClientUserId", "AgentId"), strict=True))
    [(field, name)] = [(fields[each], value) for each, value in target.items()]
    quoted = json.dumps(name)
    named = [
        f'{{"{field}":{quoted},"SessionId":7}}'.encode(),
        f'{{"MsgKey": "\\", "{field}" :\n"{name}", "Ev'.encode(),  # cut off
        b"\xff not JSON " + f'"{field}":"{name}"'.encode(),
    ]
    others = [
        f'{{"{field}":"x{name}"}}'.encode(),
        f'{{"{field}":"\\x"}} {{"{field}":'.encode(),
        f'{{"Text":"\\"{field}\\":\\"{name}\\""}}'.encode(),
        f'{{"Other":{quoted}}}'.encode(),
    ]
    last = made.append(*named, *others)
    made.append(*named, app=OTHER)
    made.wait()
    first = last - len(named) - len(others) + 1
    async with worker(made, apps=(APP, OTHER)) as serving:
        (*_, counted) = await forget(serving, dry_run=True, **target)
        (*_, answer) = await forget(serving, **target)
    expected = list(range(first, first + len(named)))
    assert [revision for each in forgotten(made) for revision in each.revisions] == expected
    assert counted.malformed == answer.malformed == len(named)


async def test_a_malformed_callback_that_comes_before_the_entry_is_listed_in_another(made: World):
    append, late = made.append, list(EARLY[:2])

    def append_late(entry: Any) -> int:
        if late:
            append(late.pop())
        return append(entry)

    made.append = append_late  # type: ignore[method-assign]
    async with worker(made, apps=(APP, OTHER)) as serving:
        (*_, answer) = await forget(serving, sessions=SessionIds(session_ids=["of-eve"]))
        (*_, left) = await forget(serving, malformed_before=LATER, dry_run=True)
    lists = forgotten(made)
    assert [(list(each.session_ids), len(each.revisions)) for each in lists] == [
        *((["of-eve"], 0), ([], 1)),
    ]
    assert len(answer.forget_revisions) == 2
    assert (answer.malformed, left.malformed) == (1, 2), "the second came after the session's entry"


async def test_more_malformed_callbacks_than_an_entry_may_list_are_listed_in_several(
    made: World, monkeypatch: pytest.MonkeyPatch
):
    made.append(*EARLY)
    made.wait()
    monkeypatch.setattr(forget_targets, "MAX_FORGOTTEN", 2)
    async with worker(made, apps=(APP, OTHER)) as serving:
        (answer,) = await forget(serving, sessions=SessionIds(session_ids=["of-eve"]))
    assert [len(each.session_ids) + len(each.revisions) for each in forgotten(made)] == [2, 2]
    assert len(answer.forget_revisions) == 2


async def test_a_session_with_a_late_callback_is_not_silent(made: World):
    async with worker(made, apps=(APP, OTHER)) as serving:
        received = made.journal.read(0, limit=1)[0].received_at
        (*_, answer) = await forget(serving, silent_before=at(received))
    assert answer.sessions == 0, "their events are old, their callbacks are not"


@pytest.mark.parametrize(
    ("target", "sessions", "malformed"),
    [
        ({"session_ids": ["of-bob"]}, 1, 0),
        ({"client_user_id": "eve"}, 2, 0),
        ({"agent_id": "ann"}, 3, 0),
        ({"silent_before": LATER.ToDatetime(UTC)}, 5, 0),
        ({"malformed_before": LATER.ToDatetime(UTC)}, 0, 1),
    ],
)
async def test_the_client_forgets(made: World, target: Any, sessions: int, malformed: int):
    async with (
        worker(made, apps=(APP, OTHER)) as serving,
        Client(f"127.0.0.1:{serving.port}") as client,
    ):
        *_, counted = [each async for each in client.forget(sdk_app_id=APP, dry_run=True, **target)]
        assert not forgotten(made)
        *_, answer = [each async for each in client.forget(sdk_app_id=APP, **target)]
    assert (answer.sessions, answer.malformed) == (sessions, malformed)
    assert (counted.sessions, counted.malformed) == (sessions, malformed)


async def test_what_was_forgotten_is_listed_page_by_page(made: World):
    async with (
        worker(made, apps=(APP, OTHER)) as serving,
        Client(f"127.0.0.1:{serving.port}") as client,
    ):
        for app, session in ((APP, "of-bob"), (OTHER, "of-eve"), (APP, "of-eve")):
            await forget(serving, sdk_app_id=app, sessions=SessionIds(session_ids=[session]))
        await forget(serving, malformed_before=LATER)

        async def listed(**wanted: Any) -> list[Forgotten]:
            return [each async for each in client.list_forgotten(page_size=1, **wanted)]

        everything = await listed()
        of_other = await listed(sdk_app_ids=[OTHER])
        later = await listed(after_revision=everything[1].revision)
        nothing = await listed(after_revision=2**62)
    assert [list(each.session_ids) for each in everything] == [
        *(["of-bob"], ["of-eve"], ["of-eve"], []),
    ]
    assert [len(each.malformed_revisions) for each in everything] == [0, 0, 0, 1]
    assert of_other == [everything[1]]
    assert later == everything[2:]
    assert nothing == []


async def test_the_client_raises_its_own_errors(made: World):
    async with (
        worker(made, apps=(APP, OTHER)) as serving,
        Client(f"127.0.0.1:{serving.port}") as client,
    ):
        with pytest.raises(InvalidRequest):
            await anext(client.forget(sdk_app_id=APP))


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ({}, "target"),
        ({"client_user_id": ""}, "client_user_id"),
        ({"agent_id": "x" * 257}, "agent_id"),
        ({"sessions": SessionIds()}, "sessions.session_ids"),
        ({"sessions": SessionIds(session_ids=["a", ""])}, "sessions.session_ids[1]"),
        ({"sessions": SessionIds(session_ids=map(str, range(1_001)))}, "sessions.session_ids"),
        ({"silent_before": Timestamp(nanos=-1)}, "silent_before"),
        ({"sdk_app_id": -1, "client_user_id": "eve"}, "sdk_app_id"),
    ],
)
async def test_a_request_must_say_what_to_forget(made: World, target: Any, field: str):
    async with worker(made, apps=(APP, OTHER)) as serving:
        request = ForgetRequest(**{"sdk_app_id": APP, **target})
        error = await refusal(serving.admin.Forget(request))
    assert (reason(error), fields(error)) == ("INVALID_REQUEST", [field])


async def test_the_app_may_be_left_out_where_there_is_one(made: World):
    async with worker(made, apps=(APP, OTHER)) as serving:
        error = await refusal(serving.admin.Forget(ForgetRequest(client_user_id="eve")))
        assert reason(error) == "SDK_APP_ID_REQUIRED"
    async with worker(made, apps=(APP,)) as serving:
        (*_, answer) = await forget(serving, sdk_app_id=0, client_user_id="eve")
    assert answer.sessions == 2


async def test_a_journal_that_takes_no_entry_is_unavailable(made: World):
    def refuse(_: Any) -> int:
        raise Unavailable("the disk is full")

    made.append = refuse  # type: ignore[method-assign]
    async with worker(made, apps=(APP, OTHER)) as serving:
        request = ForgetRequest(sdk_app_id=APP, client_user_id="eve")
        error = await refusal(serving.admin.Forget(request))
    assert (error.code(), reason(error)) == (CODES.UNAVAILABLE, "JOURNAL_NOT_WRITABLE")


async def test_what_the_view_does_not_apply_in_time_is_an_error_and_in_the_log(made: World):
    made.stop_following()
    with capture_logs() as lines:
        async with worker(made, apps=(APP, OTHER), limits=Limits(forget_seconds=0.1)) as serving:
            request = ForgetRequest(sdk_app_id=APP, client_user_id="eve")
            error = await refusal(serving.admin.Forget(request))
    assert (error.code(), reason(error)) == (CODES.DEADLINE_EXCEEDED, "REVISION_NOT_REACHED")
    (ended,) = (line for line in lines if line["event"] == "forgetting_ends")
    assert (ended["sessions"], ended["complete"]) == (1, False)
    assert forgotten(made)[0].session_ids == ("of-eve",)


async def test_the_log_counts_what_a_call_orders_that_is_cancelled(made: World):
    ordered, released, append = threading.Event(), threading.Event(), made.append

    def append_slowly(entry: Any) -> int:
        ordered.set()
        released.wait(60)
        return append(entry)

    made.append = append_slowly  # type: ignore[method-assign]
    with capture_logs() as lines:
        async with worker(made, apps=(APP, OTHER)) as serving:
            call = serving.admin.Forget(ForgetRequest(sdk_app_id=APP, client_user_id="eve"))
            assert await asyncio.to_thread(ordered.wait, 60)
            call.cancel()

            async def ended() -> list[Any]:
                return [line for line in lines if line["event"] == "forgetting_ends"]

            (line,) = await until(ended)
            released.set()
    assert (line["sessions"], line["complete"]) == (1, False)
    made.wait()
    assert forgotten(made)[0].session_ids == ("of-eve",)


async def test_the_status_says_what_is_not_deleted_and_since_when(made: World):
    async with worker(made, apps=(APP, OTHER)) as serving:
        status = await serving.status.GetStatus(GetStatusRequest())
        assert (status.entries_to_delete, status.HasField("forgotten_since")) == (0, False)
        await forget(serving, sessions=SessionIds(session_ids=["of-bob"]))
        status = await serving.status.GetStatus(GetStatusRequest())
        assert status.entries_to_delete == 4
        assert abs(status.forgotten_since.seconds - time.time()) < 600


async def test_desk_status_warns_of_what_is_not_deleted_after_a_day(made: World):
    made.forget("of-bob")
    made.wait()
    async with worker(made, apps=(APP, OTHER)) as serving:
        target = f"127.0.0.1:{serving.port}"
        answer = await asyncio.to_thread(invoke, "status", target=target)
    assert re.search("entries to delete +4, forgotten since 20", answer.stdout)
    assert "desk: forgotten entries are not deleted yet" in answer.stderr


async def test_only_the_scope_admin_may_forget_and_only_in_its_apps(made: World, tmp_path: Path):
    clients = Clients(tmp_path)
    reader, admin = clients.add("reader"), clients.add("admin", apps=[APP], scopes=("admin",))
    everything = clients.add("everything", scopes=("admin",))
    options = {"apps": (APP, OTHER), "clients": clients.file()}
    async with worker(made, **options) as serving:
        request = ForgetRequest(sdk_app_id=APP, client_user_id="eve")
        error = await refusal(serving.admin.Forget(request, metadata=bearer(reader)))
        assert reason(error) == "SCOPE_MISSING"
        request.sdk_app_id = OTHER
        error = await refusal(serving.admin.Forget(request, metadata=bearer(admin)))
        assert reason(error) == "APP_NOT_ALLOWED"
        assert not forgotten(made)
        await forget(serving, sdk_app_id=0, client_user_id="eve", metadata=bearer(admin))
        await forget(serving, sdk_app_id=OTHER, client_user_id="eve", metadata=bearer(everything))
        listed = serving.admin.ListForgotten(ListForgottenRequest(), metadata=bearer(admin))
        assert {each.sdk_app_id for each in (await listed).forgotten} == {APP}
    assert len(forgotten(made)) == 3


async def test_the_audit_log_says_who_forgot_how_much_and_names_no_person(
    made: World, tmp_path: Path
):
    clients = Clients(tmp_path)
    key = clients.add("dpo", scopes=("admin",))
    with capture_logs() as lines:
        async with worker(made, apps=(APP, OTHER), clients=clients.file()) as serving:
            await forget(serving, client_user_id="eve", metadata=bearer(key))
    begun, ended = (line for line in lines if line["event"].startswith("forg"))
    assert (begun["client"], begun["by"], begun["sdk_app_id"]) == ("dpo", "client_user_id", APP)
    assert (ended["sessions"], ended["complete"], ended["client"]) == (2, True, "dpo")
    assert "'eve'" not in str(lines)

"""The table, sessions, rejections and rates of the gateway on the pages of the console."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from callback.catalogue import EventType, State
from console.diagram import PLACES, diagram_of
from console.rates import GatewayRates
from console.transitions import TABLE, row_of
from desk.v1.status_pb2 import AppCallbacks, GatewayStatus, OutcomeCount
from service.records import timestamp
from tests.support.callbacks import APP, NOON, SESSION, body, life
from tests.support.console import Console, console
from tests.support.rpc import PATIENCE, service, until

ASK = ("SessionBegin", "TransferringToHuman", "TransferringToHumanWait")


def row(document: Any, event: str, state: str) -> Any:
    return document["transitions"][row_of(event, state) - 1]


async def session_ids(made: Console, query: str) -> list[str]:
    document = (await made.get(f"/sessions.json?{query}")).document
    return [each["session_id"] for each in document["sessions"]]


def test_each_event_has_one_row_in_each_state():
    for event in EventType:
        rows = [each for each in TABLE if each["event"] == event]
        states = [source for each in rows for source in each["sources"]]
        assert sorted(states) == sorted(State)
        assert [each["possible"] for each in rows] == [True] * (len(rows) - 1) + [False]


def test_the_drawing_has_each_state_and_each_change_of_it():
    drawn = diagram_of({})
    assert set(PLACES) == set(State)
    arrows = {(arrow["from"], arrow["to"]) for arrow in drawn["arrows"]}
    assert ("NEW", "CHATBOT") in arrows
    assert ("going on", "ENDED") in arrows
    assert {name for arrow in drawn["arrows"] for name in arrow["events"]} == {
        event.value
        for event in EventType
        for sources, to, _ in event.row.transitions
        if to and set(sources) != {to}
    }


async def test_the_table_counts_what_it_has_taken_and_refused():
    begin, ask, wait = life(*ASK)
    async with (
        service(begin, ask, wait, life("SessionBegin", start=NOON + 90_000)[0], b"?") as (
            world,
            worker,
        ),
        console(f"127.0.0.1:{worker.port}") as made,
        made.events("/table/live") as live,
    ):
        document = (await made.get("/table.json")).document
        assert row(document, "SessionBegin", "NEW")["taken"] == 1
        assert row(document, "SessionBegin", "QUEUED")["refused"] == 1
        assert document["beside"]["malformed"] == 1
        taken = {
            (each["from"], each["to"]): each["taken"] for each in document["diagram"]["arrows"]
        }
        assert taken["TRANSFERRING", "QUEUED"] == 1
        _, html = await live.next()
        assert "revision 5" in html
        world.append(body("TransferToHumanSuccess", NOON + 60_000, AgentId="ann"))
        async with asyncio.timeout(PATIENCE):
            while "revision 6" not in html:
                _, html = await live.next()
        number = row_of("TransferToHumanSuccess", "QUEUED")
        chosen = (await made.get(f"/table?row={number}")).text
        assert f'<tr id="row-{number}" class="chosen" aria-current="true">' in chosen


async def test_a_session_links_to_the_row_that_decided():
    late = life("SessionBegin", start=NOON + 90_000)[0]
    async with (
        service(*life(*ASK), late) as (_, worker),
        console(f"127.0.0.1:{worker.port}") as made,
    ):
        html = (await made.get(f"/session?app={APP}&id={SESSION}")).text
        for event, state in (("TransferringToHuman", "CHATBOT"), ("SessionBegin", "QUEUED")):
            number = row_of(event, state)
            assert f'href="/table?row={number}#row-{number}"' in html
        document = (await made.get(f"/session.json?app={APP}&id={SESSION}&as_of=2")).document
        assert (document["earlier"], document["later"]) == (1, 3)
        assert document["session"]["state"] == "SESSION_STATE_TRANSFERRING"


async def test_sessions_are_selected_by_all_that_the_api_selects_by():
    def session(name: str, *events: tuple[str, dict[str, Any]]) -> list[bytes]:
        steps = [(each, {}) for each in ASK] + list(events)
        return [
            body(event, NOON + 10_000 * n, session_id=name, **fields)
            for n, (event, fields) in enumerate(steps)
        ]

    joined = ("TransferToHumanSuccess", {"AgentId": "ann"})
    handed = ("AgentForward", {"AgentId": "bob", "ForwardFromAgentId": "ann"})
    rated = ("SatisfactionSelected", {"AgentId": "bob", "SatisfactionSelected": 4})
    bodies = [
        *session("answered", joined, handed, rated),
        *session("alone"),
        *session("odd", joined, ("NoAgentOnline", {})),
    ]
    async with service(*bodies) as (_, worker), console(f"127.0.0.1:{worker.port}") as made:
        for query, found in (
            ("ever_agent=ann&agent=bob", ["answered"]),
            ("rating=4", ["answered"]),
            ("rating=0&never_answered=0&min_forwards=0", ["alone", "odd"]),
            ("min_forwards=1", ["answered"]),
            ("min_rejected=1", ["odd"]),
            ("never_answered=1", ["alone"]),
        ):
            assert sorted(await session_ids(made, query)) == sorted(found), query
        assert await session_ids(made, "order=state_since&never_answered=1") == ["alone"]
        html = (await made.get("/sessions?min_rejected=1&state=with_agent&agent=a&agent=b")).text
        assert "<details open>" in html
        assert '<option value="WITH_AGENT" selected>' in html
        assert [f'name="agent" value="{each}"' in html for each in "ab"] == [True, True]
        for wrong in ("rating=6", "min_forwards=x", "never_answered=yes"):
            assert (await made.get(f"/sessions?{wrong}")).status == 400


async def test_rejections_are_counted_by_reason_and_cause():
    bodies = [
        *life(*ASK[1:], session_id="lost"),
        *life(*ASK),
        *life("SessionBegin", start=NOON + 1),
    ]
    async with service(*bodies, b"?") as (_, worker), console(f"127.0.0.1:{worker.port}") as made:

        async def shown(query: str) -> tuple[dict[str, int], list[tuple[str, int]]]:
            document = (await made.get(f"/rejections.json?{query}")).document
            return (
                {each["reason"][17:]: each["events"] for each in document["facets"]},
                [(each["type"][11:], each["events"]) for each in document["causes"]],
            )

        facets, causes = await shown("rows=1")
        assert facets == {"NOT_BEGUN": 2, "ALREADY_BEGUN": 1, "MALFORMED": 1}
        assert sum(number for _, number in causes) == 4
        facets, causes = await shown("reason=already_begun")
        assert (len(facets), causes) == (3, [("SESSION_BEGIN", 1)])
        facets, causes = await shown("session=lost")
        assert facets == {"NOT_BEGUN": 2}
        html = (await made.get("/rejections?reason=not_begun")).text
        assert 'aria-current="true">not begun <strong>2</strong>' in html


async def test_subscribers_are_listed_by_replica_and_worker():
    async with service(*life(*ASK)) as (_, worker):
        target = f"127.0.0.1:{worker.port}"
        async with console(target) as made, made.events("/feed/live") as _:

            async def is_listed() -> bool:
                return await worker.subscribers() == 1

            await until(is_listed)
            rows = (await made.get("/subscribers.json")).document["subscribers"]
            assert [(each["replica"], each["worker"]) for each in rows] == [(target, "rpc-1")]
            html = (await made.get("/subscribers")).text
            assert f"{target}: 1 of 1 stream, the furthest behind first" in html
            assert '<td class="fixed">rpc-1</td>' in html


async def test_the_status_names_the_worker_that_answers():
    async with service() as (_, worker), console(f"127.0.0.1:{worker.port}") as made:
        (replica,) = (await made.get("/health.json")).document["replicas"]
        assert (replica["status"]["worker"], replica["status"]["workers"]) == ("rpc-1", 1)


@pytest.mark.parametrize(
    ("earlier", "started", "rate"),
    [(10, NOON, {(APP, "kept"): 90.0}), (5, NOON, {}), (10, NOON - 1, {})],
)
def test_a_rate_is_of_one_gateway_and_of_some_time(
    earlier: int, started: int, rate: dict[tuple[int, str], float]
):
    def gateway(number: int, started_at: int = NOON) -> GatewayStatus:
        outcomes = [OutcomeCount(outcome="kept", number=number)]
        apps = [AppCallbacks(sdk_app_id=APP, outcomes=outcomes)]
        return GatewayStatus(started_at=timestamp(started_at), apps=apps)

    rates, now = GatewayRates(), datetime.now(UTC)
    rates.note("here", gateway(100, started), now - timedelta(seconds=earlier))
    assert rates.per_minute("here", gateway(115), now) == rate
    assert rates.per_minute("elsewhere", gateway(115), now) == {}

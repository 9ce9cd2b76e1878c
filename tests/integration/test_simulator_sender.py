"""The simulator's sender against a real HTTP server."""

import asyncio
from itertools import islice
from time import monotonic
from typing import Any

import msgspec
import pytest
from aiohttp import web

from simulator.lives import make_lives
from simulator.sender import Fate, Sender, SendOptions, Unreachable
from simulator.summary import Figures
from simulator.traffic import Delivery, deliveries
from tests.support.callback_server import Handler, answering, busy, ok
from tests.support.waiting import PATIENCE

APP = 1400000001


def some(count: int, *, malformed: float = 0) -> list[Delivery]:
    lives = make_lives(count, seed=1, run="r", now=1_800_000_000_000, malformed=malformed)
    return list(islice(deliveries(lives, seed=1), count))


async def send(
    handler: Handler, what: list[Delivery], **options: Any
) -> tuple[Figures, list[Fate]]:
    figures, fates = Figures(), []
    options = {"timeout": PATIENCE, **options}
    async with answering(handler) as url:
        sender = Sender(
            SendOptions(url=url + "/callback?tenant=7", sdk_app_id=APP, **options),
            figures,
            on_fate=lambda _delivery, fate, _revision: fates.append(fate),
        )
        await sender.send(iter(what))
    return figures, fates


async def test_with_a_begin_what_is_earlier_is_sent_at_once_and_the_rest_in_time() -> None:
    came: list[float] = []

    async def keep(_: web.Request) -> web.Response:
        came.append(monotonic())
        return ok()

    yesterday, soon = (
        msgspec.structs.replace(each, at=at)
        for each, at in zip(some(2), (0, 24 * 3_600_000 + 300), strict=True)
    )
    async with answering(keep) as url:
        sender = Sender(SendOptions(url=url, sdk_app_id=APP, speed=1), Figures())
        started = monotonic()
        await sender.send(iter([yesterday, soon]), begin=24 * 3_600_000)
    assert len(came) == 2
    assert came[1] - started >= 0.3


async def test_callbacks_are_posted_as_desk_posts_them() -> None:
    requests: list[tuple[str, dict[str, str], bytes]] = []

    async def keep(request: web.Request) -> web.Response:
        requests.append((request.path, dict(request.query), await request.read()))
        return ok()

    (delivery,) = some(1)
    figures, fates = await send(keep, [delivery], token="t")
    ((path, query, body),) = requests
    assert path == "/callback"
    assert body == delivery.callback.body
    assert len(query.pop("Sign")) == 64
    assert query.pop("RequestTime").isdigit()
    assert query == {
        "tenant": "7",
        "SdkAppid": str(APP),
        "CallbackCommand": "Desk.SessionEventNotify",
        "contenttype": "json",
        "ClientIP": delivery.callback.client_ip,
        "OptPlatform": delivery.callback.platform,
        "RequestID": delivery.request_id,
    }
    assert (figures.sent, figures.accepted, figures.failed) == (1, 1, 0)
    assert fates == [Fate.KEPT]


@pytest.mark.parametrize(
    ("headers", "revision"),
    [
        ({"Desk-Revision": "1", "Desk-Journal-Id": "a"}, 1),
        ({"Desk-Revision": "9007199254740993"}, 9007199254740993),
        ({}, 0),
        ({"Desk-Journal-Id": "a"}, None),  # from a spool
    ],
)
async def test_the_revision_of_an_answer_is_noted(
    headers: dict[str, str], revision: int | None
) -> None:
    noted = []

    async def keep(_: web.Request) -> web.Response:
        answer = ok()
        answer.headers.update(headers)
        return answer

    figures = Figures()
    async with answering(keep) as url:
        await Sender(
            SendOptions(url=url, sdk_app_id=APP),
            figures,
            on_fate=lambda _delivery, _fate, given: noted.append(given),
        ).send(iter(some(1)))
    assert noted == [revision]
    assert figures.failed == 0


@pytest.mark.parametrize("header", ["0", "-1", "x", "1.0", "9" * 20])
async def test_an_answer_with_a_revision_that_is_none_is_a_failure(header: str) -> None:
    async def keep(_: web.Request) -> web.Response:
        answer = ok()
        answer.headers["Desk-Revision"] = header
        return answer

    figures, fates = await send(keep, some(1))
    assert (figures.accepted, figures.misnumbered, figures.failed) == (1, 1, 1)
    assert fates == [Fate.KEPT]


async def test_connections_are_kept_alive_and_many_callbacks_are_under_way_at_once() -> None:
    peers = set()
    six = asyncio.Barrier(6)

    async def when_six_are_there(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        async with asyncio.timeout(PATIENCE):
            await six.wait()
        return ok()

    figures, _ = await send(when_six_are_there, some(60), concurrency=6)
    assert figures.accepted == 60
    assert len(peers) == 6


async def test_a_503_or_a_lost_connection_is_retried_with_the_same_request_id() -> None:
    seen: list[str] = []

    async def third_time(request: web.Request) -> web.Response:
        seen.append(request.query["RequestID"])
        if len(seen) == 1:
            return busy()
        if len(seen) == 2:
            assert request.transport is not None
            request.transport.close()
        return ok()

    (delivery,) = some(1)
    figures, fates = await send(third_time, [delivery])
    assert seen == [delivery.request_id] * 3
    assert (figures.sent, figures.accepted, figures.retries) == (1, 1, 2)
    assert fates == [Fate.KEPT]


async def test_what_is_never_answered_well_is_unknown_in_the_end() -> None:
    async def always_busy(_request: web.Request) -> web.Response:
        return busy()

    for retry_for in (0.05, 0.5, 5.0):  # a busy machine retries nothing in the shortest
        figures, fates = await send(always_busy, some(2), retry_for=retry_for)
        assert (figures.unknown, figures.failed) == (2, 2)
        if figures.retries:
            break
    assert figures.retries > 0
    assert fates == [Fate.UNKNOWN] * 2


async def test_a_refusal_is_counted_by_status_and_not_retried() -> None:
    async def refuse(_request: web.Request) -> web.Response:
        return web.json_response({}, status=403)

    figures, fates = await send(refuse, some(3))
    assert figures.refused == {403: 3}
    assert (figures.failed, figures.retries) == (3, 0)
    assert fates == [Fate.REFUSED] * 3


async def test_a_400_for_a_malformed_body_is_as_expected() -> None:
    malformed = [each for each in some(40, malformed=0.5) if not each.callback.session_id]

    async def reject(_request: web.Request) -> web.Response:
        return web.json_response({}, status=400)

    figures, fates = await send(reject, malformed)
    assert malformed
    assert figures.as_expected == len(malformed)
    assert figures.failed == 0
    assert set(fates) == {Fate.KEPT}


async def test_latency_counts_from_the_schedule_so_that_a_slow_service_cannot_hide() -> None:
    async def slowly(_request: web.Request) -> web.Response:
        await asyncio.sleep(0.05)
        return ok()

    figures, _ = await send(slowly, some(10), rate=1000, concurrency=1)
    assert max(figures.latencies) > 0.4  # the last was due at once, and waited for nine others


async def test_a_rate_is_not_exceeded() -> None:
    async def at_once(_request: web.Request) -> web.Response:
        return ok()

    figures, _ = await send(at_once, some(40), rate=100)
    assert figures.seconds > 0.38  # the last of 40 is due after 0.39 s


async def test_nothing_at_the_url_is_said_so_early() -> None:
    figures = Figures()
    sender = Sender(SendOptions(url="http://127.0.0.1:1", sdk_app_id=APP, retry_for=0.1), figures)
    with pytest.raises(Unreachable):
        await sender.send(iter(some(500)))
    assert figures.sent < 100


async def test_a_url_that_has_never_answered_is_given_up_before_the_time_for_retries() -> None:
    options = SendOptions(url="http://127.0.0.1:1", sdk_app_id=APP, retry_for=600)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(Unreachable):
            await Sender(options, Figures()).send(iter(some(5)))


async def test_a_cancelled_run_keeps_its_figures() -> None:
    reached = asyncio.Semaphore(0)

    async def hang(_request: web.Request) -> web.Response:
        reached.release()
        await asyncio.sleep(60)
        return ok()

    figures = Figures()
    async with answering(hang) as url:
        sender = Sender(SendOptions(url=url, sdk_app_id=APP, concurrency=2), figures)
        task = asyncio.create_task(sender.send(iter(some(10))))
        async with asyncio.timeout(PATIENCE):
            await reached.acquire()
            await reached.acquire()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert figures.sent == figures.unknown == 2
    assert figures.seconds > 0

"""`desk simulate --verify` against real processes: it agrees with them, and it can disagree."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.support.callback_server import answering, ok
from tests.support.commands import invoke
from tests.support.loopback import reserved_port
from tests.support.processes import SDK_APP_ID, RunningDesk, run, simulating, start, wait_until

APP = ("--app", str(SDK_APP_ID))

MIXED = ("--duplicates", "10%", "--shuffle", "30%", "--impossible", "5%", "--malformed", "1%")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    with start("serve", data_dir=tmp_path_factory.mktemp("simulate") / "data") as running:
        running.ready()
        yield running


def simulate(callback_url: str, *arguments: str, **settings: str) -> tuple[int, dict[str, Any]]:
    done = invoke("simulate", callback_url, *APP, "--json", *arguments, **settings)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_what_the_service_makes_of_a_mixed_run_is_what_the_simulator_expects(
    desk: RunningDesk,
) -> None:
    for seed in ("1", "1", "2"):  # a seed may come again: session ids are the run's own
        code, summary = simulate(
            desk.url, "--sessions", "60", "--seed", seed, *MIXED, "--verify", desk.target
        )
        assert (code, summary["verification"]["details"]) == (0, [])
        assert summary["verification"]["sessions"] == 60
        assert summary["verification"]["stories"] >= 60
        assert summary["verification"]["rejected"] > 0
        assert summary["accepted"] > summary["verification"]["callbacks"] * 0.9


def test_the_verdict_is_one_plain_line(desk: RunningDesk) -> None:
    done = run("simulate", desk.url, *APP, "--sessions", "5", "--verify", desk.target)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("no difference: 5 sessions, ")
    assert done.stderr == ""  # no progress bar where there is no terminal


Forward = Callable[[bytes], Awaitable[web.Response]]


def proxied(
    desk: RunningDesk, fault: Callable[[int, bytes, Forward], Awaitable[web.Response]]
) -> tuple[int, dict[str, Any]]:
    """Run through a proxy that does wrong to callbacks, by their number."""

    async def main() -> tuple[int, dict[str, Any]]:
        numbers = iter(range(1_000_000))
        async with aiohttp.ClientSession() as http:

            async def handle(request: web.Request) -> web.Response:
                async def forward(body: bytes) -> web.Response:
                    answer = await http.post(desk.url, params=request.query, data=body)
                    revision = answer.headers.getall("Desk-Revision", [])
                    return web.Response(
                        status=answer.status,
                        headers=[("Desk-Revision", each) for each in revision],
                        body=await answer.read(),
                    )

                return await fault(next(numbers), await request.read(), forward)

            async with answering(handle) as proxy:
                return await asyncio.to_thread(
                    simulate, proxy, "--sessions", "8", "--verify", desk.target
                )

    return asyncio.run(main())


def test_an_acknowledged_callback_that_is_not_there_is_reported(desk: RunningDesk) -> None:
    async def lose_one(number: int, body: bytes, forward: Forward) -> web.Response:
        return ok() if number == 20 else await forward(body)

    code, summary = proxied(desk, lose_one)
    assert code == 1
    assert any("acknowledged, and lost" in line for line in summary["verification"]["details"])


def test_a_changed_callback_is_reported(desk: RunningDesk) -> None:
    async def change_one(number: int, body: bytes, forward: Forward) -> web.Response:
        return await forward(body.replace(b'"SDK"', b'"SDX"') if number >= 20 else body)

    code, summary = proxied(desk, change_one)
    assert code == 1
    assert any("never sent like this" in line for line in summary["verification"]["details"])


def test_a_callback_that_is_there_twice_is_reported(desk: RunningDesk) -> None:
    async def add_one(number: int, body: bytes, forward: Forward) -> web.Response:
        if number == 20:
            document = json.loads(body)
            await forward(json.dumps(document | {"EventTime": document["EventTime"] + 1}).encode())
        return await forward(body)

    code, summary = proxied(desk, add_one)
    assert code == 1
    details = summary["verification"]["details"]
    assert any("never sent like this" in line for line in details)
    assert any("explained" in line for line in details)


def test_refused_callbacks_are_told_apart_from_lost_ones(desk: RunningDesk) -> None:
    async def refuse_some(number: int, body: bytes, forward: Forward) -> web.Response:
        return web.Response(status=403) if number in (20, 30) else await forward(body)

    code, summary = proxied(desk, refuse_some)
    assert code == 1
    assert summary["refused"] == {"403": 2}
    assert summary["verification"]["details"] == []
    assert 1 <= summary["verification"]["skipped"] <= 2


def test_signed_callbacks_pass_and_unsigned_ones_do_not(tmp_path: Path) -> None:
    tokens = {"DESK_CALLBACK_TOKENS": f"{SDK_APP_ID}=a-long-enough-token"}
    with start("gateway", data_dir=tmp_path / "data", **tokens) as gateway:
        right = {"DESK_SIMULATE_TOKEN": "a-long-enough-token"}
        assert simulate(gateway.url, "--sessions", "2", **right)[0] == 0
        code, summary = simulate(gateway.url, "--sessions", "2")
        assert code == 1
        assert set(summary["refused"]) == {"403"}


def test_nothing_acknowledged_is_lost_when_the_gateway_is_killed_and_retries_mend_the_rest(
    tmp_path: Path,
) -> None:
    data_dir = tmp_path / "data"
    with (
        reserved_port() as port,
        start("gateway", data_dir=data_dir, DESK_HTTP_LISTEN=f"127.0.0.1:{port}") as gateway,
        start("service", data_dir=data_dir) as it,
    ):
        it.ready()
        arguments = ("--sessions", "60", "--rate", "100", "--retry-for", "60", *MIXED)
        with simulating(gateway, *arguments, "--verify", it.target) as sending:
            journal = data_dir / "journal.db-wal"
            wait_until(lambda: journal.exists() and journal.stat().st_size > 200_000)
            gateway.kill()
            again = {"DESK_HTTP_LISTEN": f"127.0.0.1:{port}"}
            with start("gateway", data_dir=data_dir, **again) as second:
                second.ready()
                out, _ = sending.communicate(timeout=200)
    summary = json.loads(out)
    assert summary["retries"] > 0
    assert summary["verification"]["details"] == []
    assert (sending.returncode, summary["unknown"]) == (0, 0)


def head(desk: RunningDesk) -> int:
    answer = invoke("status", "--json", target=desk.target)
    return int(json.loads(answer.stdout)["head_revision"])


def test_ctrl_c_ends_with_a_summary_of_what_was_sent(desk: RunningDesk) -> None:
    before = head(desk)
    with simulating(desk, "--sessions", "1000", "--rate", "50") as sending:
        wait_until(lambda: head(desk) > before)
        os.kill(sending.pid, signal.SIGINT)
        out, errors = sending.communicate(timeout=60)
    summary = json.loads(out)
    assert sending.returncode == 130
    assert summary["interrupted"]
    assert 0 < summary["sent"] < 1000
    assert "Traceback" not in errors


def test_an_unreachable_url_or_service_is_one_line_and_exit_code_3(desk: RunningDesk) -> None:
    done = invoke("simulate", "http://127.0.0.1:9/", *APP, "--retry-for", "0")
    assert done.returncode == 3
    assert "nothing answers at http://127.0.0.1:9/" in done.stdout
    done = invoke("simulate", desk.url, *APP, "--verify", "127.0.0.1:9")
    assert done.returncode == 3
    assert "UNAVAILABLE" in done.stdout
    assert "Traceback" not in done.stderr


def test_bad_options_are_one_line_and_exit_code_2() -> None:
    for arguments in (
        ("nowhere",),
        ("http://h/", "--shuffle", "200%"),
        ("http://h/", "--rate", "0"),
    ):
        done = invoke("simulate", *arguments, *APP)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("Error: ")

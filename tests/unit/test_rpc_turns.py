"""Heavy questions: a few at once, and those of one caller one after the other."""

import asyncio

from service.rpc.session_service import Turns

PATIENCE = 5.0


async def test_one_caller_does_not_keep_another_waiting():
    turns, let_go = Turns(2), asyncio.Event()
    begun: list[str] = []

    async def ask(caller: str) -> None:
        async with turns.turn(caller):
            begun.append(caller)
            await let_go.wait()

    greedy = [asyncio.create_task(ask("greedy")) for _ in range(100)]
    while not begun:  # noqa: ASYNC110
        await asyncio.sleep(0)
    other = asyncio.create_task(ask("other"))
    async with asyncio.timeout(PATIENCE):
        while "other" not in begun:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert begun == ["greedy", "other"]
    let_go.set()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(other, *greedy)
    assert begun.count("greedy") == 100


async def test_a_caller_that_gives_up_gives_its_turn_back():
    turns = Turns(1)
    given_up = asyncio.Event()

    async def ask() -> None:
        async with turns.turn("a"):
            given_up.set()
            await asyncio.Event().wait()

    asking = asyncio.create_task(ask())
    await given_up.wait()
    asking.cancel()
    async with asyncio.timeout(PATIENCE), turns.turn("a"):
        pass

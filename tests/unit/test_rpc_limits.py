"""One caller has half of a quota, and may take again what it gave back."""

import asyncio

import pytest

from service.rpc.errors import CallRefused, ErrorReason
from service.rpc.limits import Quota, caller_of


def places(most: int) -> Quota:
    return Quota(ErrorReason.TOO_MANY_CALLS, "calls", most)


def test_one_caller_may_have_half_of_the_places_and_another_the_rest():
    calls = places(4)
    for caller in ("a", "a", "b", "b"):
        calls.take(caller)
    with pytest.raises(CallRefused) as refused:
        calls.take("c")
    assert (refused.value.reason, len(calls)) == (ErrorReason.TOO_MANY_CALLS, 4)


def test_more_than_half_is_refused_to_one_caller_though_places_are_left():
    calls = places(4)
    calls.take("a")
    calls.take("a")
    with pytest.raises(CallRefused, match="of this address"):
        calls.take("a")
    calls.take("b")
    assert len(calls) == 3


def test_what_is_given_back_can_be_taken_again():
    bytes_ = places(10)
    for _ in range(3):
        bytes_.take("a", 5)
        with pytest.raises(CallRefused):
            bytes_.take("a")
        bytes_.give_back("a", 5)
    assert len(bytes_) == 0


async def test_those_that_wait_for_places_get_them_in_turn_as_they_are_given_back():
    bytes_ = places(20)
    bytes_.take_anyway("a", 10)
    got: list[int] = []

    async def take(number: int) -> None:
        await bytes_.take_in_turn("a", number)
        got.append(number)

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for number in (6, 1, 99):
            tasks.create_task(take(number))
        await nothing_more_happens()
        assert got == []
        bytes_.give_back("a", 5)
        await nothing_more_happens()
        assert got == []  # the first of them needs more; those after it wait behind it
        bytes_.give_back("a", 2)
        await nothing_more_happens()
        assert got == [6, 1]
        bytes_.give_back("a", 9)
        await nothing_more_happens()
        assert got == [6, 1]
        bytes_.give_back("a", 1)  # what is larger than the share needs all of it
    assert got == [6, 1, 99]


async def test_one_caller_does_not_wait_for_places_that_another_has():
    bytes_ = places(20)
    bytes_.take_anyway("a", 20)
    await asyncio.wait_for(bytes_.take_in_turn("b", 10), 60)
    assert (bytes_.left("b"), len(bytes_)) == (0, 30)


async def test_who_gives_up_waiting_keeps_nobody_waiting():
    bytes_ = places(20)
    bytes_.take_anyway("a", 10)
    given_up = asyncio.create_task(bytes_.take_in_turn("a", 10))
    waiting = asyncio.create_task(bytes_.take_in_turn("a", 1))
    await nothing_more_happens()
    given_up.cancel()
    bytes_.give_back("a", 1)
    await asyncio.wait_for(waiting, 60)
    assert len(bytes_) == 10


async def nothing_more_happens() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("peer", "caller"),
    [
        ("ipv4:10.0.0.7:51515", "ipv4:10.0.0.7"),
        ("ipv6:%5B::1%5D:51515", "::/64"),
        ("ipv6:%5B2001:db8:0:7::1%5D:51515", "2001:db8:0:7::/64"),
        ("ipv6:%5B2001:db8:0:7:ffff::9%5D:443", "2001:db8:0:7::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:443", "fe80::/64"),
        ("unix:", "unix:"),
        ("", ""),
    ],
)
def test_a_caller_is_an_address_without_its_port_or_a_network(peer: str, caller: str):
    assert caller_of(peer) == caller

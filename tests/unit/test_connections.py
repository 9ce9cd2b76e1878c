"""Which connections are closed: the overdue, and those that take the room of others."""

from dataclasses import dataclass

import pytest

from gateway import connections
from gateway.app import BUDGET
from gateway.connections import (
    ANSWER,
    HALF_SENT_BYTES,
    IDLE,
    LINGER,
    RECEIVE,
    SPARED,
    Limits,
    network,
    overdue,
)

NOW = 1_000.0
LONG_AGO = NOW - SPARED - 1


@dataclass(eq=False)
class Peer:
    """A connection that has just been made."""

    address: str = "a"
    begun: float = 0.0
    size: int = 0
    refused: float = 0.0
    quiet_since: float = NOW
    is_busy: bool = False


def half_sent(age: float, **more: object) -> Peer:
    return Peer(begun=NOW - age, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("age", "make"),
    [
        (IDLE, lambda at: Peer(quiet_since=at)),
        (RECEIVE, lambda at: Peer(begun=at)),
        (LINGER, lambda at: Peer(refused=at)),
    ],
)
def test_each_has_its_time(age, make):
    early, late = make(NOW - age + 0.1), make(NOW - age - 0.1)
    assert overdue([early, late, Peer()], NOW) == [late]


def test_as_long_as_there_is_room_nobody_is_closed():
    peers = [*(half_sent(5) for _ in range(7)), Peer(quiet_since=LONG_AGO), Peer()]
    assert Limits(connections=10).surplus(peers, NOW) == set()


def test_a_reserve_is_left_for_those_that_finish_and_the_oldest_half_sent_goes_first():
    peers = [half_sent(age) for age in range(9)]
    assert Limits(connections=10).surplus(peers, NOW) == {peers[8], peers[7]}


def test_when_all_room_is_taken_half_sent_ones_go_before_idle_ones():
    idle = [Peer(quiet_since=LONG_AGO - number) for number in range(4)]
    half = [half_sent(5), half_sent(6)]
    assert Limits(connections=6).surplus([*idle, *half], NOW) == {half[1]}
    assert Limits(connections=4).surplus(idle, NOW) == {idle[3]}


def test_what_was_made_just_now_or_is_being_answered_is_spared():
    peers = [Peer(), half_sent(0.5), Peer(is_busy=True, quiet_since=LONG_AGO)]
    assert Limits(connections=3).surplus(peers, NOW) == set()


def test_who_does_not_read_an_answer_makes_room_for_others():
    peers = [Peer(is_busy=True, quiet_since=NOW - ANSWER - age) for age in (-0.1, 0.1)]
    assert Limits(connections=2).surplus(peers, NOW) == {peers[1]}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"),
        ("fe80::1%eth0", "fe80::2%eth0"),
        ("192.0.2.1", "::ffff:192.0.2.1"),
    ],
)
def test_addresses_that_one_client_has_are_one(one, other):
    assert network(one) == network(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:2::1"),
        ("192.0.2.1", "192.0.2.2"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2"),
    ],
)
def test_addresses_of_two_clients_are_two(one, other):
    assert network(one) != network(other)


def test_an_address_has_its_own_limit_and_others_are_not_touched():
    many = [Peer("crowd") for _ in range(7)]
    others = [Peer("b", quiet_since=LONG_AGO), Peer("c")]
    closed = Limits(connections=100, per_address=5).surplus([*others, *many], NOW)
    assert closed == {many[5], many[6]}


def test_of_an_address_the_oldest_half_sent_goes_first():
    many = [Peer("crowd"), half_sent(0.1, address="crowd"), Peer("crowd"), Peer("crowd")]
    assert Limits(connections=100, per_address=3).surplus(many, NOW) == {many[1]}


def test_of_an_address_those_that_are_answered_go_last():
    many = [Peer("crowd"), Peer("crowd", is_busy=True), Peer("crowd", is_busy=True)]
    assert Limits(connections=100, per_address=2).surplus(many, NOW) == {many[0]}


def test_half_sent_requests_of_an_address_are_bounded():
    peers = [half_sent(age, address="crowd") for age in range(8)]
    assert Limits(connections=100, per_address=8).surplus([*peers, Peer()], NOW) == {*peers[6:]}


def test_without_a_limit_an_address_may_have_all():
    assert Limits(connections=100).surplus([Peer() for _ in range(99)], NOW) == set()


def test_half_sent_bodies_are_bounded_in_bytes():
    peers = [half_sent(age, size=HALF_SENT_BYTES // 4) for age in range(6)]
    assert Limits(connections=100).surplus(peers, NOW) == {peers[4], peers[5]}


def test_the_times_are_in_an_order_that_makes_sense():
    assert SPARED < BUDGET < ANSWER < RECEIVE < IDLE
    assert SPARED < LINGER < RECEIVE
    assert 0 < connections.HALF_SENT < 1

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
    SPARED_WHEN_FULL,
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
    accepted: float = NOW
    begun: float = 0.0
    size: int = 0
    refused: float = 0.0
    quiet_since: float = NOW
    is_busy: bool = False


def idle(quiet: float, **more: object) -> Peer:
    return Peer(accepted=LONG_AGO, quiet_since=NOW - quiet, **more)  # type: ignore[arg-type]


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
    peers = [*(half_sent(5) for _ in range(7)), idle(5), Peer()]
    assert Limits(connections=10).surplus(peers, NOW) == set()


def test_a_part_is_left_for_those_that_finish_and_the_oldest_half_sent_goes_first():
    peers = [half_sent(age) for age in range(9)]
    assert Limits(connections=10).surplus(peers, NOW) == {peers[8], peers[7]}


def test_what_began_just_now_may_finish_however_many_there_are():
    peers = [half_sent(SPARED - 0.1) for _ in range(9)]
    assert Limits(connections=10, per_address=5).surplus(peers, NOW) == set()


def test_of_what_does_nothing_the_least_recently_active_makes_room_then_the_oldest_half_sent():
    peers = [*(idle(0.1 * age) for age in range(3)), half_sent(5), half_sent(6)]
    assert Limits(connections=5).surplus(peers, NOW) == {peers[2]}
    assert Limits(connections=2).surplus(peers, NOW) == {*peers[:3], peers[4]}


def test_room_is_made_in_time_for_the_next_ones():
    peers = [idle(0.1) for _ in range(160)]
    for number, closed in ((150, 0), (151, 1), (160, 10)):
        assert len(Limits(connections=160).surplus(peers[:number], NOW)) == closed


def test_the_address_with_the_most_makes_room():
    most, more, few = ([idle(age, address=name) for age in (9, 8, 7, 6)] for name in "abc")
    peers = [*most, *more[:3], *few[:1]]
    limits = Limits(connections=6)
    assert limits.surplus(peers, NOW) == {most[0], most[1], more[0]}


def test_an_active_crowd_makes_room_for_a_client_that_has_little():
    crowd = [idle(0.3, address=name) for name in "ab" for _ in range(512)]
    few = [Peer("c"), idle(60, address="c")]
    closed = Limits(connections=1024, per_address=512).surplus([*few, *crowd], NOW)
    assert len(closed) >= 64
    assert closed.isdisjoint(few)


def test_what_was_made_just_now_or_is_being_answered_is_spared():
    peers = [Peer(), half_sent(0.1), Peer(is_busy=True, accepted=LONG_AGO)]
    assert Limits(connections=3).surplus(peers, NOW) == set()


@pytest.mark.parametrize("make", [lambda age: Peer(accepted=NOW - age), half_sent])
def test_when_there_is_no_room_at_all_less_is_spared(make):
    peers = [make(SPARED_WHEN_FULL - 0.1), make(SPARED_WHEN_FULL + 0.1)]
    assert Limits(connections=3).surplus([*peers, Peer()], NOW) == {peers[1]}
    assert Limits(connections=4).surplus([*peers, Peer()], NOW) == set()


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
    many = [idle(age, address="crowd") for age in range(7)]
    others = [idle(60, address="b"), Peer("c")]
    closed = Limits(connections=100, per_address=5).surplus([*others, *many], NOW)
    assert closed == {many[5], many[6]}


def test_a_burst_from_one_address_is_answered():
    burst = [Peer("crowd") for _ in range(5)] + [half_sent(0.1, address="crowd")]
    burst += [Peer("crowd", accepted=LONG_AGO, is_busy=True) for _ in range(5)]
    assert Limits(connections=100, per_address=3).surplus(burst, NOW) == set()


def test_half_sent_requests_of_an_address_are_bounded():
    peers = [half_sent(age, address="crowd") for age in range(8)]
    assert Limits(connections=100, per_address=8).surplus([*peers, Peer()], NOW) == {*peers[6:]}


def test_without_a_limit_an_address_may_have_all():
    assert Limits(connections=100).surplus([idle(5) for _ in range(94)], NOW) == set()


def test_half_sent_bodies_are_bounded_in_bytes():
    peers = [half_sent(age, size=HALF_SENT_BYTES // 4) for age in range(6)]
    assert Limits(connections=100).surplus(peers, NOW) == {peers[4], peers[5]}


def test_the_times_are_in_an_order_that_makes_sense():
    assert SPARED_WHEN_FULL < SPARED < BUDGET < ANSWER < RECEIVE < IDLE
    assert SPARED < LINGER < RECEIVE
    assert 0 < connections.HALF_SENT < 1

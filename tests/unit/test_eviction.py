"""Eviction: which connections are closed, the overdue and those that take the room of others."""

from dataclasses import dataclass

import pytest

from gateway.eviction import HALF_SENT, client_network, overdue, surplus
from gateway.limits import BUDGET, Limits

NOW = 1_000.0
DEFAULT = Limits()
LONG_AGO = NOW - DEFAULT.spared - 1


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


def closed(peers: list[Peer], connections: int, per_address: int = 0) -> set[Peer]:
    return surplus(peers, Limits(connections=connections, per_address=per_address), NOW)


def idle(quiet: float, **more: object) -> Peer:
    return Peer(accepted=LONG_AGO, quiet_since=NOW - quiet, **more)  # type: ignore[arg-type]


def half_sent(age: float, **more: object) -> Peer:
    return Peer(begun=NOW - age, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("age", "make"),
    [
        (DEFAULT.idle, lambda at: Peer(quiet_since=at)),
        (DEFAULT.receive, lambda at: Peer(begun=at)),
        (DEFAULT.linger, lambda at: Peer(refused=at)),
    ],
)
def test_each_has_its_time(age, make):
    early, late = make(NOW - age + 0.1), make(NOW - age - 0.1)
    assert overdue([early, late, Peer()], DEFAULT, NOW) == [late]


def test_as_long_as_there_is_room_nobody_is_closed():
    peers = [*(half_sent(5) for _ in range(7)), idle(5), Peer()]
    assert closed(peers, 10) == set()


def test_a_part_is_left_for_those_that_finish_and_the_oldest_half_sent_goes_first():
    peers = [half_sent(age) for age in range(9)]
    assert closed(peers, 10) == {peers[8], peers[7]}


def test_what_began_just_now_may_finish_however_many_there_are():
    peers = [half_sent(DEFAULT.spared - 0.1) for _ in range(9)]
    assert closed(peers, 10, per_address=5) == set()


def test_of_what_does_nothing_the_least_recently_active_makes_room_then_the_oldest_half_sent():
    peers = [*(idle(0.1 * age) for age in range(3)), half_sent(5), half_sent(6)]
    assert closed(peers, 5) == {peers[2]}
    assert closed(peers, 2) == {*peers[:3], peers[4]}


def test_room_is_made_in_time_for_the_next_ones():
    peers = [idle(0.1) for _ in range(160)]
    for number, count in ((150, 0), (151, 1), (160, 10)):
        assert len(closed(peers[:number], 160)) == count


def test_the_address_with_the_most_makes_room():
    most, more, few = ([idle(age, address=name) for age in (9, 8, 7, 6)] for name in "abc")
    peers = [*most, *more[:3], *few[:1]]
    assert closed(peers, 6) == {most[0], most[1], more[0]}


def test_an_active_crowd_makes_room_for_a_client_that_has_little():
    crowd = [idle(0.3, address=name) for name in "ab" for _ in range(512)]
    few = [Peer("c"), idle(60, address="c")]
    gone = closed([*few, *crowd], 1024, per_address=512)
    assert len(gone) >= 64
    assert gone.isdisjoint(few)


def test_what_was_made_just_now_or_is_being_answered_is_spared():
    peers = [Peer(), half_sent(0.1), Peer(is_busy=True, accepted=LONG_AGO)]
    assert closed(peers, 3) == set()


@pytest.mark.parametrize("make", [lambda age: Peer(accepted=NOW - age), half_sent])
def test_when_there_is_no_room_at_all_less_is_spared(make):
    peers = [make(DEFAULT.spared_when_full - 0.1), make(DEFAULT.spared_when_full + 0.1)]
    assert closed([*peers, Peer()], 3) == {peers[1]}
    assert closed([*peers, Peer()], 4) == set()


def test_who_does_not_read_an_answer_makes_room_for_others():
    peers = [Peer(is_busy=True, quiet_since=NOW - DEFAULT.unread - age) for age in (-0.1, 0.1)]
    assert closed(peers, 2) == {peers[1]}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"),
        ("fe80::1%eth0", "fe80::2%eth0"),
        ("192.0.2.1", "::ffff:192.0.2.1"),
    ],
)
def test_addresses_that_one_client_has_are_one(one, other):
    assert client_network(one) == client_network(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:2::1"),
        ("192.0.2.1", "192.0.2.2"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2"),
    ],
)
def test_addresses_of_two_clients_are_two(one, other):
    assert client_network(one) != client_network(other)


def test_an_address_has_its_own_limit_and_others_are_not_touched():
    many = [idle(age, address="crowd") for age in range(7)]
    others = [idle(60, address="b"), Peer("c")]
    gone = closed([*others, *many], 100, per_address=5)
    assert gone == {many[5], many[6]}


def test_a_burst_from_one_address_is_answered():
    burst = [Peer("crowd") for _ in range(5)] + [half_sent(0.1, address="crowd")]
    burst += [Peer("crowd", accepted=LONG_AGO, is_busy=True) for _ in range(5)]
    assert closed(burst, 100, per_address=3) == set()


def test_half_sent_requests_of_an_address_are_bounded():
    peers = [half_sent(age, address="crowd") for age in range(8)]
    assert closed([*peers, Peer()], 100, per_address=8) == {*peers[6:]}


def test_without_a_limit_an_address_may_have_all():
    assert closed([idle(5) for _ in range(94)], 100) == set()


def test_half_sent_bodies_are_bounded_in_bytes():
    peers = [half_sent(age, size=DEFAULT.half_sent_bytes // 4) for age in range(6)]
    assert closed(peers, 100) == {peers[4], peers[5]}


def test_the_times_are_in_an_order_that_makes_sense():
    limits = DEFAULT
    assert limits.spared_when_full < limits.spared < BUDGET < limits.unread < limits.receive
    assert limits.spared < limits.linger < limits.receive < limits.idle
    assert 0 < HALF_SENT < 1

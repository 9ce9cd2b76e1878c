"""One caller cannot take more than half of the places, and gives back what it took."""

import pytest

from service.rpc.errors import Reason, Refused
from service.rpc.limits import Places, caller_of


def places(most: int) -> Places:
    return Places(Reason.TOO_MANY_CALLS, "calls", most)


def test_one_caller_may_have_half_of_the_places_and_another_the_rest():
    calls = places(4)
    for caller in ("a", "a", "b", "b"):
        calls.take(caller)
    with pytest.raises(Refused) as refused:
        calls.take("c")
    assert (refused.value.reason, len(calls)) == (Reason.TOO_MANY_CALLS, 4)


def test_more_than_half_is_refused_to_one_caller_though_places_are_left():
    calls = places(4)
    calls.take("a")
    calls.take("a")
    with pytest.raises(Refused, match="of this address"):
        calls.take("a")
    calls.take("b")
    assert len(calls) == 3


def test_what_is_given_back_can_be_taken_again():
    bytes_ = places(10)
    for _ in range(3):
        bytes_.take("a", 5)
        with pytest.raises(Refused):
            bytes_.take("a")
        bytes_.give_back("a", 5)
    assert len(bytes_) == 0


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

"""Page tokens: what was put in comes out, for the same request only, and nothing crashes."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rpc.errors import CallRefused, ErrorReason
from service.rpc.page_tokens import PageTokens

PLACE = (5, 2**40)


def tokens(*request: object, numbers: int = 2) -> PageTokens:
    return PageTokens(*request, numbers=numbers)


INTEGERS = st.integers(min_value=0, max_value=2**63 - 1)


@given(st.lists(INTEGERS, min_size=1, max_size=3), st.text())
def test_a_token_brings_back_its_places(numbers: list[int], bound_to: str):
    made = tokens(bound_to, numbers=len(numbers)).token(numbers)
    assert tokens(bound_to, numbers=len(numbers)).place(made) == tuple(numbers)
    assert len(made) <= 64


def test_no_token_is_the_first_page():
    assert tokens("r").place("") is None
    assert tokens("r").token(None) == ""


@given(st.text(max_size=600) | st.binary(max_size=80).map(lambda b: base64.b64encode(b).decode()))
def test_what_is_no_token_of_ours_is_refused(text: str):
    if text:
        with pytest.raises(CallRefused) as refused:
            tokens("r").place(text)
        assert refused.value.reason is ErrorReason.INVALID_PAGE_TOKEN


@given(st.data())
def test_a_token_that_was_changed_anywhere_is_refused(data: st.DataObject):
    made = tokens("r").token(PLACE)
    place = data.draw(st.integers(0, len(made) - 1))
    other = data.draw(st.sampled_from("ABCDEFwxyz0189-_+/=!é ").filter(lambda c: c != made[place]))
    changed = made[:place] + other + made[place + 1 :]
    with pytest.raises(CallRefused):
        tokens("r").place(changed)


def test_a_token_of_another_request_or_method_is_refused():
    made = tokens("ListSessions", "journal", 1).token(PLACE)
    for bound_to, count in (
        (("ListSessions", "journal", 2), 2),
        (("ListSessions", "another", 1), 2),
        (("ListSessions", "journal", 1), 1),
    ):
        with pytest.raises(CallRefused):
            tokens(*bound_to, numbers=count).place(made)


@pytest.mark.parametrize("number", [-1, -(2**63), 2**63, 2**64 - 1])
def test_a_forged_token_cannot_have_a_number_that_no_place_has(number: int):
    forged = tokens("r").token((1, number))
    with pytest.raises(CallRefused) as refused:
        tokens("r").place(forged)
    assert refused.value.reason is ErrorReason.INVALID_PAGE_TOKEN

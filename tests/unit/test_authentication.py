"""Authentication: who is let in, and that nothing but ten ASCII digits is ever hashed."""

from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.authentication import AuthenticationFault, Authenticator, NotAuthenticated
from tests.support.gateway import sign
from tests.support.length_extension import extend_sha256

APP, OTHER = 1400000001, 1400000002
TOKEN = "xxxxyyyy"
TIME = 1669872112
VENDORS_SIGN = "17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061"


def authenticate(tokens=(TOKEN,), now: float = TIME, **parameters):
    given_ = {"SdkAppid": str(APP), "RequestTime": str(TIME), "Sign": VENDORS_SIGN} | parameters
    given_ = {name: value for name, value in given_.items() if value is not None}
    return Authenticator(frozenset({APP, OTHER}), {APP: tokens}).authenticate(given_, now)


def refusal(**arguments) -> str:
    with pytest.raises(NotAuthenticated) as caught:
        authenticate(**arguments)
    return caught.value.reason


def test_the_vendors_own_vector_is_let_in():
    assert authenticate() == APP


def test_the_case_of_the_hexadecimal_does_not_matter():
    assert authenticate(Sign=VENDORS_SIGN.upper()) == APP


@pytest.mark.parametrize("now", [TIME - 60, TIME - 59.5, TIME, TIME + 60])
def test_sixty_seconds_either_way_are_in_time(now):
    assert authenticate(now=now) == APP


@pytest.mark.parametrize("now", [TIME - 61, TIME - 60.01, TIME + 60.01, TIME + 61])
def test_more_than_sixty_seconds_are_stale(now):
    assert refusal(now=now) == AuthenticationFault.STALE


@pytest.mark.parametrize(
    "request_time",
    [
        None,
        "",
        "166987211",
        "16698721120",
        "+669872112",
        "-669872112",
        " 1669872112",
        "1669872112 ",
        "1669872112\n",
        "1669872112.",
        "1_66987211",
        "0x16698721",
        "١٦٦٩٨٧٢١١٢",
        "１６６９８７２１１２",
        [str(TIME), str(TIME)],
    ],
)
def test_a_request_time_is_ten_ascii_digits_exactly_once(request_time):
    text = request_time[0] if isinstance(request_time, list) else request_time or ""
    signed = sign(TOKEN, text)
    assert refusal(RequestTime=request_time, Sign=signed) == AuthenticationFault.BAD_REQUEST_TIME


@pytest.mark.parametrize(
    "signature",
    [None, "", "0" * 63, "0" * 65, "é" * 64, "٠" * 64, VENDORS_SIGN + "\n", [VENDORS_SIGN] * 2],
)
def test_a_sign_is_sixty_four_digits_exactly_once(signature):
    assert refusal(Sign=signature) == AuthenticationFault.BAD_SIGN


def test_a_sign_of_another_token_is_wrong():
    assert refusal(Sign=sign("xxxxyyyz", TIME)) == AuthenticationFault.WRONG_SIGN


def test_during_a_rotation_old_and_new_token_are_both_valid():
    both = ("older", TOKEN, "newer")
    assert [authenticate(tokens=both, Sign=sign(token, TIME)) for token in both] == [APP] * 3
    assert refusal(tokens=both, Sign=sign("oldest", TIME)) == AuthenticationFault.WRONG_SIGN


def test_the_last_use_of_each_token_is_known_by_its_place_until_it_is_taken_out():
    authenticator = Authenticator(frozenset({1, 2}), {1: ("old", "new"), 2: ("x",)})
    for token, now in (("old", 1_725_540_000), ("new", 1_725_540_020)):
        sign = sha256(f"{token}{now}".encode()).hexdigest()
        given = {"SdkAppid": "1", "RequestTime": str(now), "Sign": sign}
        assert authenticator.authenticate(given, now + 1.5) == 1
    assert authenticator.last_used() == {
        ("1", "1"): 1_725_540_001.5,
        ("1", "2"): 1_725_540_021.5,
        ("2", "1"): 0.0,
    }
    authenticator.replace({1: ("new",)})
    assert authenticator.last_used() == {("1", "1"): 1_725_540_021.5}
    assert (authenticator.checks(1), authenticator.checks(2)) == (True, False)


def test_a_token_is_of_one_app_only():
    tokens = {APP: ("one",), OTHER: ("two",)}
    authenticator = Authenticator(frozenset(tokens), tokens)
    query = {"SdkAppid": str(OTHER), "RequestTime": str(TIME), "Sign": sign("one", TIME)}
    with pytest.raises(NotAuthenticated) as caught:
        authenticator.authenticate(query, TIME)
    assert caught.value.reason == AuthenticationFault.WRONG_SIGN
    assert authenticator.authenticate(query | {"Sign": sign("two", TIME)}, TIME) == OTHER


def test_an_app_without_tokens_is_not_asked_for_a_signature():
    assert authenticate(SdkAppid=str(OTHER), Sign=None, RequestTime=None) == OTHER


@pytest.mark.parametrize(
    "claim",
    [
        None,
        "",
        "0",
        f"0{APP}",
        f"+{APP}",
        f" {APP}",
        f"{APP} ",
        f"{APP}.0",
        "1" * 20,
        "١٤",
        [str(APP)] * 2,
    ],
)
def test_an_app_is_a_plain_number_exactly_once(claim):
    assert refusal(SdkAppid=claim) == AuthenticationFault.BAD_APP


def test_an_app_that_is_not_ours_is_refused():
    assert refusal(SdkAppid="1400000003") == AuthenticationFault.NOT_OUR_APP


@given(
    suffix=st.from_regex(rb"[0-9]{1,70}", fullmatch=True), token=st.text(min_size=1, max_size=80)
)
@example(suffix=b"9", token=TOKEN)
def test_a_signature_can_be_extended_by_who_does_not_know_the_token_and_is_refused(suffix, token):
    secret = f"{token}{TIME}".encode()
    padding, forged = extend_sha256(sign(token, TIME), len(secret), suffix)
    assert forged == sha256(secret + padding + suffix).hexdigest()

    extended = (str(TIME).encode() + padding + suffix).decode("latin-1")
    assert (
        refusal(tokens=(token,), RequestTime=extended, Sign=forged)
        == AuthenticationFault.BAD_REQUEST_TIME
    )


@given(request_time=st.text(max_size=14), signature=st.text(max_size=70))
def test_any_text_is_refused_and_never_an_error(request_time, signature):
    with pytest.raises(NotAuthenticated):
        authenticate(RequestTime=request_time, Sign=signature)

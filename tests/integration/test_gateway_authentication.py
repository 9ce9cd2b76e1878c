"""Signatures over HTTP: the vendor's vector, the forgery, rotation, time."""

from hashlib import sha256
from urllib.parse import quote_from_bytes

import pytest

from tests.support.callbacks import APP
from tests.support.callbacks import body as callback
from tests.support.gateway import gateway, query, sign
from tests.support.length_extension import extend_sha256

TOKEN = "xxxxyyyy"
TIME = 1669872112
VENDORS_SIGN = "17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061"
CALLBACK = callback("SessionBegin", TIME * 1000)


@pytest.fixture
def desk():
    with gateway(tokens={APP: (TOKEN,)}, now=TIME) as running:
        yield running


def test_the_vendors_own_vector_is_let_in(desk):
    desk.post(CALLBACK, RequestTime=TIME, Sign=VENDORS_SIGN).assert_ok()
    [entry] = desk.kept()
    assert entry.received_at == TIME * 1000


def test_a_forgery_by_length_extension_is_refused(desk):
    padding, forged = extend_sha256(VENDORS_SIGN, len(f"{TOKEN}{TIME}"), b"0000000000")
    extended = str(TIME).encode() + padding + b"0000000000"
    assert forged == sha256(TOKEN.encode() + extended).hexdigest()
    target = f"/?{query(Sign=forged)}&RequestTime={quote_from_bytes(extended)}"
    desk.ask("POST", target, CALLBACK).assert_fail(403)
    assert desk.kept() == []


@pytest.mark.parametrize(
    ("now", "status"),
    [(TIME + 60, 200), (TIME + 61, 403), (TIME - 60, 200), (TIME - 61, 403), (TIME + 10**9, 403)],
)
def test_a_request_is_valid_for_sixty_seconds_either_way(now, status):
    with gateway(tokens={APP: (TOKEN,)}, now=now) as desk:
        assert desk.post(CALLBACK, RequestTime=TIME, Sign=VENDORS_SIGN).status == status
        assert len(desk.kept()) == (status == 200)


@pytest.mark.parametrize(
    "request_time",
    ["", "166987211", "16698721120", "+1669872112", " 1669872112", "١٦٦٩٨٧٢١١٢", "1669872112\n"],
)
def test_a_time_in_another_form_is_refused_although_it_is_signed(desk, request_time):
    desk.post(CALLBACK, RequestTime=request_time, Sign=sign(TOKEN, request_time)).assert_fail(403)
    assert desk.kept() == []


def test_a_plus_sign_in_the_url_is_a_space_and_no_digit(desk):
    desk.ask("POST", f"/?{query(Sign=VENDORS_SIGN)}&RequestTime=+{TIME}", CALLBACK).assert_fail(403)


@pytest.mark.parametrize("name", ["SdkAppid", "Sign", "RequestTime"])
@pytest.mark.parametrize("spelling", ["{}", "%{:02x}{}"])
def test_a_parameter_given_twice_is_refused_however_it_is_escaped(desk, name, spelling):
    right = {"SdkAppid": APP, "Sign": VENDORS_SIGN, "RequestTime": TIME}
    again = name if spelling == "{}" else spelling.format(ord(name[0]), name[1:])
    for value in (right[name], ""):
        target = f"/?{query(**right)}&{again}={value}"
        desk.ask("POST", target, CALLBACK).assert_fail(403)
    assert desk.kept() == []


def test_names_are_spelled_exactly_so(desk):
    desk.post(CALLBACK, RequestTime=TIME, sign=VENDORS_SIGN).assert_fail(403)
    desk.post(CALLBACK, requesttime=TIME, Sign=VENDORS_SIGN).assert_fail(403)


def test_several_apps_have_tokens_of_their_own_and_rotate_them():
    other, open_app = APP + 1, APP + 2
    tokens = {APP: ("old", "new"), other: ("other",)}
    apps = frozenset({APP, other, open_app})
    with gateway(sdk_app_ids=apps, tokens=tokens, now=TIME) as desk:

        def status(app: int, token: str) -> int:
            return desk.post(
                CALLBACK, SdkAppid=app, RequestTime=TIME, Sign=sign(token, TIME)
            ).status

        assert [status(APP, token) for token in ("old", "new", "other")] == [200, 200, 403]
        assert [status(other, token) for token in ("old", "new", "other")] == [403, 403, 200]
        assert desk.post(CALLBACK, SdkAppid=open_app).status == 200
        assert [entry.sdk_app_id for entry in desk.kept()] == [APP, other, open_app]


def test_a_captured_signature_lets_any_body_in_which_is_why_tls_is_not_optional(desk):
    desk.post(CALLBACK, RequestTime=TIME, Sign=VENDORS_SIGN).assert_ok()
    desk.post(callback("SessionEnd", TIME * 1000), RequestTime=TIME, Sign=VENDORS_SIGN).assert_ok()


def test_what_is_signed_is_kept_even_if_it_makes_no_sense(desk):
    desk.post(b"nonsense", RequestTime=TIME, Sign=VENDORS_SIGN).assert_fail(400)
    assert desk.bodies() == [b"nonsense"]

"""Every row of the HTTP table: what is answered, and what is in the journal afterwards."""

import json

import pytest

from gateway.authentication import Authenticator
from gateway.limits import MAX_BODY
from gateway.options import check_callback_path
from journal.errors import (
    AppendTimedOut,
    Closed,
    InUse,
    Overloaded,
    Unavailable,
    Unreadable,
)
from tests.support.callbacks import APP, NOON
from tests.support.callbacks import body as callback
from tests.support.gateway import (
    CALLBACK,
    FailingJournal,
    gateway,
    next_answer,
    query,
    request,
    sign,
)


@pytest.fixture
def desk():
    with gateway() as running:
        yield running


def test_a_callback_is_kept_exactly_as_it_came(desk):
    spaced = b'{ "SessionId":"s",\n "Event":"New.Event", "EventTime":1725540020017, "x":1.50}  '
    desk.post(spaced, RequestID="r-1", ClientIP="203.0.113.9", OptPlatform="iPad").assert_ok()
    [entry] = desk.kept()
    assert entry.body == spaced
    assert (entry.sdk_app_id, entry.request_id) == (APP, "r-1")
    assert (entry.client_ip, entry.platform) == ("203.0.113.9", "iPad")
    assert entry.received_at > NOON


def test_a_duplicate_is_acknowledged_and_kept_once(desk):
    reordered = json.dumps(json.loads(CALLBACK), sort_keys=True, indent=1).encode()
    for body, request_id in ((CALLBACK, "a"), (CALLBACK, "a"), (CALLBACK, "b"), (reordered, "c")):
        desk.post(body, RequestID=request_id).assert_ok()
    assert [entry.request_id for entry in desk.kept()] == ["a"]


def deep(levels: int) -> bytes:
    nested = b"[" * levels + b"]" * levels
    return b'{"SessionId":"s","Event":"SessionBegin","EventTime":1725540020017,"x":' + nested + b"}"


MALFORMED = {
    "empty": b"",
    "white space": b" \n ",
    "not JSON": b"SessionId=1",
    "cut off": CALLBACK[:-1],
    "two documents": CALLBACK + CALLBACK,
    "an array": b"[" + CALLBACK + b"]",
    "a string": b'"SessionBegin"',
    "null": b"null",
    "no SessionId": b'{"Event":"SessionBegin","EventTime":1725540020017}',
    "no Event": b'{"SessionId":"s","EventTime":1725540020017}',
    "no EventTime": b'{"SessionId":"s","Event":"SessionBegin"}',
    "SessionId of another type": b'{"SessionId":7,"Event":"e","EventTime":1725540020017}',
    "EventTime of another type": b'{"SessionId":"s","Event":"e","EventTime":"1725540020017"}',
    "EventTime too large": b'{"SessionId":"s","Event":"SessionBegin","EventTime":%d}' % 2**63,
    "EventTime of 5000 digits": b'{"SessionId":"s","Event":"e","EventTime":1%s}' % (b"0" * 5000),
    "EventTime not a number": b'{"SessionId":"s","Event":"SessionBegin","EventTime":NaN}',
    "another command": callback("SessionBegin", NOON, CallbackCommand="C2C.x"),
    "bad UTF-8": b'{"SessionId":"\xff\xfe","Event":"SessionBegin","EventTime":1725540020017}',
    "a lone surrogate": b'{"SessionId":"\\ud800","Event":"SessionBegin","EventTime":1725540020017}',
    "surrogate in raw bytes": b'{"SessionId":"\xed\xa0\x80","Event":"e","EventTime":1725540020017}',
    "nested a hundred deep": deep(100),
    "nested a hundred thousand deep": deep(100_000),
    "opened and never closed": b"[" * (MAX_BODY - 1),
    "gzip without saying so": b"\x1f\x8b\x08\x00" + bytes(64),
    "NUL bytes": bytes(64),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_callback_is_refused_but_kept(desk, body):
    answer = desk.post(body).assert_fail(400)
    assert answer.fields["ErrorInfo"].startswith("the body is not a callback: ")
    assert len(answer.body) < 300
    assert desk.bodies() == [body]


@pytest.mark.parametrize(
    "body",
    [
        b'{"SessionId":"s","Event":"e","EventTime":1725540020017,"Event":"last"}',
        b'{"SessionId":"s","Event":"e","EventTime":1725540020017,"MsgBody":%d}' % 2**64,
        deep(40),
    ],
    ids=["duplicate keys", "a huge number elsewhere", "nested a little"],
)
def test_what_is_odd_but_a_callback_is_kept(desk, body):
    desk.post(body).assert_ok()
    assert desk.bodies() == [body]


def test_a_body_of_the_largest_size_is_kept_whole(desk):
    body = callback("SessionBegin", NOON, CloudCustomData="x")
    body = callback("SessionBegin", NOON, CloudCustomData="x" * (MAX_BODY - len(body) + 1))
    assert len(body) == MAX_BODY
    desk.post(body).assert_ok()
    assert desk.bodies() == [body]


@pytest.mark.parametrize("size", [MAX_BODY + 1, MAX_BODY + 128 * 1024, 3 * 1024 * 1024])
def test_a_larger_body_is_refused_and_its_sender_can_read_why(desk, size):
    desk.post(b"x" * size).assert_fail(413)
    assert desk.kept() == []
    desk.post().assert_ok()


def chunked(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


def test_a_chunked_body_is_kept_like_any_other(desk):
    desk.ask("POST", f"/?{query()}", iter(chunked(CALLBACK, 7))).assert_ok()
    assert desk.bodies() == [CALLBACK]


def test_a_chunked_body_may_have_the_largest_size_and_not_a_byte_more(desk):
    desk.ask("POST", f"/?{query()}", iter(chunked(b"x" * MAX_BODY, 4096))).assert_fail(400)
    desk.ask("POST", f"/?{query()}", iter(chunked(b"y" * (MAX_BODY + 1), 4096))).assert_fail(413)
    desk.ask("POST", f"/?{query()}", iter(chunked(b"z" * 10**6, 4096))).assert_fail(413)
    assert desk.bodies() == [b"x" * MAX_BODY]


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, identity", "x"])
def test_an_encoded_body_is_refused(desk, coding):
    desk.post(headers={"Content-Encoding": coding}).assert_fail(415)
    assert desk.kept() == []


def test_of_several_encodings_none_is_overlooked(desk):
    twice = "Content-Encoding: identity\r\nContent-Encoding: gzip\r\nConnection: close\r\n"
    [answer] = desk.raw(request(headers=twice))
    answer.assert_fail(415)
    assert desk.kept() == []


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
def test_identity_is_no_encoding(desk, coding):
    desk.post(headers={"Content-Encoding": coding}).assert_ok()


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "é", "json; charset=x"]
)
def test_the_content_type_is_not_policed(desk, content_type):
    desk.post(headers={"Content-Type": content_type}).assert_ok()
    assert desk.bodies() == [CALLBACK]


@pytest.mark.parametrize(
    "command", [None, "", "C2C.CallbackAfterSendMsg", "desk.sessioneventnotify", ["x", "x"]]
)
def test_another_command_is_refused_and_not_kept(desk, command):
    desk.post(CallbackCommand=command).assert_fail(400)
    desk.post(CallbackCommand=["Desk.SessionEventNotify"] * 2).assert_fail(400)
    assert desk.kept() == []


@pytest.mark.parametrize("app", [None, "", APP + 1, f"0{APP}", [APP, APP], [APP, APP + 1], "x"])
def test_another_app_is_refused_and_not_kept(desk, app):
    desk.post(SdkAppid=app).assert_fail(403)
    assert desk.kept() == []


def test_refusals_do_not_tell_their_reason():
    with gateway(tokens={APP: ("token",)}, now=1725540000) as desk:
        now = 1725540000
        answers = [
            desk.post(),
            desk.post(SdkAppid=1),
            desk.post(RequestTime=now),
            desk.post(RequestTime=now - 61, Sign=sign("token", now - 61)),
            desk.post(RequestTime=now, Sign=sign("tokem", now)),
        ]
        assert {answer.assert_fail(403).body for answer in answers} == {answers[0].body}
        assert desk.kept() == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "TRACE", "BREW"])
def test_another_method_is_refused(desk, method):
    answer = desk.ask(method, f"/?{query()}", CALLBACK)
    assert answer.status == 405
    assert "POST" in answer.headers["allow"]
    assert method == "HEAD" or answer.assert_fail(405)
    assert desk.kept() == []


def test_options_says_what_is_allowed(desk):
    answer = desk.ask("OPTIONS", f"/?{query()}")
    assert (answer.status, answer.body) == (200, b"")
    assert "POST" in answer.headers["allow"]


@pytest.mark.parametrize(
    "path",
    [
        "/other",
        "/livez/",
        "/index.html",
        "/%2e%2e",
        "/%ff",
    ],
)
def test_another_path_is_refused(desk, path):
    desk.ask("POST", f"{path}?{query()}", CALLBACK).assert_fail(404)
    assert desk.kept() == []


def test_the_callback_path_may_be_sent_with_escapes():
    with gateway(path="/hooks") as desk:
        desk.post(path="/hook%73").assert_ok()
        assert desk.bodies() == [CALLBACK]


def test_the_callback_path_is_what_the_customer_typed():
    with gateway(path="/hooks/desk~1/") as desk:
        desk.post(path="/hooks/desk~1/").assert_ok()
        desk.post(path="/hooks/desk~1").assert_fail(404)
        desk.post().assert_fail(404)
        desk.ask(
            "POST", f"/hooks/desk~1/?mine=1&{query()}", callback("SessionEnd", NOON)
        ).assert_ok()
        assert len(desk.kept()) == 2


@pytest.mark.parametrize(
    "path", ["", "x", "/a b", "/{name}", "/a?b", "/a#b", "/livez", "/%41", "/a//b"]
)
def test_a_path_that_cannot_be_served_is_refused_at_start(path):
    with pytest.raises(ValueError, match="path"):
        check_callback_path(path)


@pytest.mark.parametrize("tokens", [{APP: ("",)}, {APP: ("a", "")}])
def test_a_token_that_protects_nothing_is_refused_at_start(tokens):
    with pytest.raises(ValueError, match="token"):
        Authenticator(frozenset({APP}), tokens)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("x" * 5000, "x" * 128),
        ("a\x00b\x1fc\x7fd\x85e", "a\ufffdb\ufffdc\ufffdd\ufffde"),
        (b"\xed\xa0\x80", "\ufffd" * 3),
        (b"\xff", "\ufffd"),
        ("客户端", "客户端"),
        ("a+b c&d=e%", "a+b c&d=e%"),
        (["first", "second"], "first"),
        ("", ""),
        (None, ""),
    ],
)
def test_what_describes_a_request_is_kept_as_bounded_text(desk, sent, kept):
    desk.post(RequestID=sent, ClientIP=sent, OptPlatform=sent).assert_ok()
    [entry] = desk.kept()
    assert (entry.request_id, entry.client_ip, entry.platform) == (kept, kept, kept)


def test_a_comma_does_not_make_a_list(desk):
    desk.ask("POST", f"/?{query()}&RequestID=a,b", CALLBACK).assert_ok()
    [entry] = desk.kept()
    assert entry.request_id == "a,b"


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("/secret/disk"),
        AppendTimedOut("x"),
        Overloaded("x"),
        Closed("x"),
        InUse("x"),
        Unreadable("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_journal_that_cannot_keep_it_means_try_again_later(error):
    with gateway(FailingJournal(error)) as desk:
        for body in (CALLBACK, b"malformed"):
            answer = desk.post(body).assert_fail(503)
            assert int(answer.headers["retry-after"]) > 0
            assert b"secret" not in answer.body
        desk.journal.error = None
        desk.post().assert_ok()


def test_an_unexpected_error_is_answered_in_shape_and_without_a_word_of_it():
    with gateway(FailingJournal(RuntimeError("secret"))) as desk:
        answer = desk.post().assert_fail(500)
        assert b"secret" not in answer.body
        desk.journal.error = None
        desk.post().assert_ok()


def test_a_connection_is_kept_across_refusals(desk):
    sock = desk.connect()
    for wire, status in (
        (request(b"x"), 400),
        (request(SdkAppid=1), 403),
        (request(CallbackCommand="C2C.x"), 400),
        (request(headers="Content-Encoding: gzip\r\n"), 415),
        (request(), 200),
    ):
        sock.sendall(wire)
        answer = next_answer(sock)
        assert answer.status == status
        assert "connection" not in answer.headers

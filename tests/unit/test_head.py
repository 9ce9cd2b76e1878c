"""Heads: which are taken, which are refused, and that none takes long."""

from time import thread_time

import pytest

from gateway.head import MAX_LINES, InvalidHttp, parse_head
from gateway.limits import MAX_HEAD


def head(*fields: bytes, line: bytes = b"POST / HTTP/1.1", host: bytes = b"Host: h") -> bytes:
    return b"\r\n".join([line, *([host] if host else []), *fields, b"", b""])


def test_a_head_is_taken_apart():
    parsed = parse_head(
        head(b"X-One:  a \t", b"x-one:b", b"Under_Score: c", line=b"PUT /p%20q?r=s HTTP/1.1")
    )
    assert parsed == ("PUT", "/p%20q?r=s", "1.1", {"HOST": "h", "X_ONE": "a, b"})


TAKEN = {
    "no fields in HTTP/1.0": head(line=b"GET /livez HTTP/1.0", host=b""),
    "a host with a port": head(host=b"Host: [::1]:8080"),
    "an empty host": head(host=b"Host:"),
    "tabs and text that is no ASCII": head(b"A: b\tc \xe9"),
    "an empty value": head(b"A:"),
    "chunks": head(b"Transfer-Encoding: Chunked"),
    "the longest length": head(b"Content-Length: " + b"9" * 19),
    "a target with two slashes": head(line=b"POST //x HTTP/1.1"),
}


@pytest.mark.parametrize("data", TAKEN.values(), ids=TAKEN.keys())
def test_what_has_one_meaning_is_taken(data):
    parse_head(data)


REFUSED = {
    "an absolute target": head(line=b"POST http://h/ HTTP/1.1"),
    "a target that breaks a parser": head(line=b"POST http://[ HTTP/1.1"),
    "an asterisk": head(line=b"OPTIONS * HTTP/1.1"),
    "a fragment": head(line=b"POST /#a HTTP/1.1"),
    "NUL in the target": head(line=b"POST /\x00 HTTP/1.1"),
    "a byte of no ASCII in the target": head(line=b"POST /\xe9 HTTP/1.1"),
    "a method in small letters": head(line=b"post / HTTP/1.1"),
    "a method with small letters": head(line=b"Get / HTTP/1.1"),
    "two spaces": head(line=b"POST  / HTTP/1.1"),
    "a space at the end": head(line=b"POST / HTTP/1.1 "),
    "a vertical tab before the method": head(line=b"\x0bPOST / HTTP/1.1"),
    "a form feed before the method": head(line=b"\x0cPOST / HTTP/1.1"),
    "no version": head(line=b"POST /"),
    "HTTP/0.9": head(line=b"POST / HTTP/0.9"),
    "HTTP/1.2": head(line=b"POST / HTTP/1.2"),
    "HTTP/2.0": head(line=b"POST / HTTP/2.0"),
    "a small http": head(line=b"POST / http/1.1"),
    "a request line that ends in LF CR LF": head(line=b"POST / HTTP/1.1\n"),
    "a bare LF": head(b"A: b\nC: d"),
    "a bare CR": head(b"A: b\rC: d"),
    "a folded line": head(b"A: b", b" c"),
    "a line with nothing but a space": head(b" "),
    "no colon": head(b"A"),
    "no name": head(b": a"),
    "a space before the colon": head(b"A : b"),
    "a name that is no token": head(b"A(: b"),
    "NUL in a value": head(b"A: b\x00"),
    "DEL in a value": head(b"A: b\x7f"),
    "no host": head(host=b""),
    "two hosts": head(b"Host: h"),
    "two hosts in HTTP/1.0": head(b"Host: h", line=b"POST / HTTP/1.0"),
    "a list of hosts": head(host=b"Host: a, b"),
    "a host with a path": head(host=b"Host: a/b"),
    "two lengths": head(b"Content-Length: 5", b"content-length: 5"),
    "a list of lengths": head(b"Content-Length: 5, 5"),
    "an empty length": head(b"Content-Length:"),
    "a signed length": head(b"Content-Length: +5"),
    "a length of 20 digits": head(b"Content-Length: " + b"1" * 20),
    "a length of 5,000 digits": head(b"Content-Length: " + b"1" * 5000),
    "a length in Arabic digits": head("Content-Length: ٣".encode()),
    "length and chunks": head(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "chunked twice": head(b"Transfer-Encoding: chunked, chunked"),
    "chunked in two fields": head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "an empty coding": head(b"Transfer-Encoding:"),
    "a folded coding": head(b"Transfer-Encoding: chunked", b" ,chunked"),
    "chunks in HTTP/1.0": head(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0"),
    "a connection with a length": head(b"Content-Length: 5", b"Connection: Content-Length"),
    "a connection with a host": head(b"Connection: close, host"),
    "a connection with a coding": head(b"Connection: transfer-encoding\t,x"),
    "close and keep-alive": head(b"Connection: close, keep-alive"),
    "close and keep-alive in two fields": head(b"Connection: close", b"Connection: Keep-Alive"),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_what_two_readers_could_see_differently_is_refused(data):
    with pytest.raises(InvalidHttp) as refusal:
        parse_head(data)
    assert refusal.value.code == 400


@pytest.mark.parametrize("coding", [b"gzip", b"gzip, chunked", b"identity"])
def test_a_transfer_coding_that_is_not_there_is_not_supported(coding):
    with pytest.raises(InvalidHttp) as refusal:
        parse_head(head(b"Transfer-Encoding: " + coding))
    assert refusal.value.code == 501


def test_the_number_of_lines_is_bounded():
    fields = [b"A: b"] * (MAX_LINES - 3)
    parse_head(head(*fields))
    with pytest.raises(InvalidHttp) as refusal:
        parse_head(head(*fields, b"A: b"))
    assert refusal.value.code == 431


@pytest.mark.parametrize("option", [b"close", b"close, TE", b"TE ,\tClose", b"close,close"])
def test_of_connection_one_word_is_left(option):
    assert parse_head(head(b"Connection: " + option)).headers["CONNECTION"] == "close"


N = MAX_HEAD - 200

HOSTILE = {
    "digits behind an authority": head(line=b"POST a://" + b"1" * N + b" x"),
    "digits in a path like one": head(line=b"POST /a://" + b"1" * N + b" x"),
    "spaces and a control character": head(b"X:" + b" " * N + b"\x00"),
    "tabs and a control character": head(b"X:" + b"\t" * N + b"\x00"),
    "a coding with spaces inside": head(b"Transfer-Encoding: a" + b" " * N + b"b"),
    "a coding of commas": head(b"Transfer-Encoding: " + b"a," * (N // 2)),
    "words and a control character": head(b"X: " + b"a " * (N // 2) + b"\x00"),
    "a name without a colon": head(b"a" * N),
    "a host of colons": head(host=b"Host: " + b":" * N + b"/"),
    "a list of connection options": head(b"Connection: " + b"close," * (N // 6) + b"keep-alive"),
    "spaces in the request line": head(line=b"POST /" + b" " * N),
    "many equal fields": head(*[b"A: b"] * (N // 6)),
    "digits of a length": head(b"Content-Length: " + b"1" * N + b"x"),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_head_takes_long(data):
    def seconds() -> float:
        begun = thread_time()
        with pytest.raises(InvalidHttp):
            parse_head(data)
        return thread_time() - begun

    assert min(seconds() for _ in range(5)) < 0.05

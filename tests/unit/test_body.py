"""Bodies: kept up to a limit, and in chunks of one spelling only."""

import pytest

from gateway.body import DISCARD, MAX_FRAMING, Body, ChunkedBody
from gateway.head import InvalidHttp
from gateway.limits import MAX_BODY


def receive(body: Body, wire: bytes, pieces: int) -> int:
    at = 0
    while at < len(wire) and not body.completed:
        at += body.received(wire[at : at + pieces])
    return at


@pytest.mark.parametrize("pieces", [1, 2, 7, 1000])
def test_a_body_ends_where_its_length_says(pieces):
    body = Body(5)
    assert receive(body, b"hello, world", pieces) == 5
    assert body.file().read() == b"hello"


def test_a_body_is_not_kept_twice():
    body = Body(MAX_BODY)
    body.received(b"x" * MAX_BODY)
    file = body.file()
    assert len(body) == 0
    assert file.getvalue() is file.read(MAX_BODY + 1)


@pytest.mark.parametrize("pieces", [1, 2, 7, 1000])
def test_chunks_are_put_together(pieces):
    wire = b"5\r\nhello\r\n002\r\n, \r\n5\r\nworld\r\n0\r\n\r\n"
    body = ChunkedBody()
    assert receive(body, wire + b"POST", pieces) == len(wire)
    assert body.completed
    assert body.file().read() == b"hello, world"


REFUSED = {
    "a size that ends in LF": b"5\nhello\r\n0\r\n\r\n",
    "a size that ends in LF CR LF": b"5\n\r\nhello\r\n0\r\n\r\n",
    "an extension": b"5;a\r\nhello\r\n0\r\n\r\n",
    "an extension without a name": b"5;\r\nhello\r\n0\r\n\r\n",
    "an extension without a value": b"5;a=\r\nhello\r\n0\r\n\r\n",
    "an extension with half a string": b'5;a=x"\r\nhello\r\n0\r\n\r\n',
    "an extension of the last chunk": b"5\r\nhello\r\n0;a\r\n\r\n",
    "an empty line before a size": b"\r\n5\r\nhello\r\n0\r\n\r\n",
    "a trailer field": b"0\r\nA: b\r\n\r\n",
    "a trailer that is no field": b"0\r\nPOST / HTTP/1.1\r\n\r\n",
    "an end in LF": b"0\r\n\n",
    "a space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "a space after the size": b"5 \r\nhello\r\n0\r\n\r\n",
    "a signed size": b"+5\r\nhello\r\n0\r\n\r\n",
    "a size with a prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a size of nine digits": b"000000005\r\nhello\r\n0\r\n\r\n",
    "no size": b";a\r\nhello\r\n0\r\n\r\n",
    "a chunk that is longer than its size": b"2\r\nhello\r\n0\r\n\r\n",
    "a line that does not end": b"5" * 300,
    "framing and hardly any content": b"1\r\nx\r\n" * (MAX_FRAMING // 5 + 1),
}


@pytest.mark.parametrize("pieces", [1, 100_000])
@pytest.mark.parametrize("wire", REFUSED.values(), ids=REFUSED.keys())
def test_chunks_that_others_read_differently_are_refused(wire, pieces):
    with pytest.raises(InvalidHttp) as refusal:
        receive(ChunkedBody(), wire, pieces)
    assert refusal.value.code == 400


def test_what_is_too_large_is_read_and_not_kept():
    size = MAX_BODY * 3
    for body, wire in (
        (Body(size), b"x" * size),
        (ChunkedBody(), b"%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n"),
    ):
        assert receive(body, wire, 8192) == len(wire)
        assert len(body) == MAX_BODY + 1


def test_what_is_far_too_large_is_not_even_read():
    for attempt in (
        lambda: Body(DISCARD + 1),
        lambda: ChunkedBody().received(b"%x\r\n" % (DISCARD + 1)),
        lambda: ChunkedBody().received(b"fffffff\r\n"),
    ):
        with pytest.raises(InvalidHttp) as refusal:
            attempt()
        assert refusal.value.code == 413

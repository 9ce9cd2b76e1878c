"""Page tokens: opaque, versioned, bound to the request that they continue.

A token carries nothing but places in an order (integers). The digest is no secret, it tells slips
from tokens of ours: whoever forges one gets a page that another token would have given, too.
"""

import base64
import binascii
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from service.rpc.errors import Reason, Refused

VERSION = b"desk.page.v1"
_DIGEST_BYTES = 8
_MAX_CHARACTERS = 512


def token(places: Sequence[int], *, request: object) -> str:
    """Make a token that goes on after `places`, with the same request only."""
    payload = msgspec.msgpack.encode(places)
    return _text(_digest(payload, request) + payload)


def places(text: str, *, request: object, count: int) -> tuple[int, ...] | None:
    """Read a token of `count` places; None if there is none.

    Raises:
        Refused: INVALID_PAGE_TOKEN.
    """
    if not text:
        return None
    try:
        return _read(text, request, count)
    except (ValueError, binascii.Error):
        raise Refused(
            Reason.INVALID_PAGE_TOKEN,
            "page_token is not one that this request was given",
            violations=(("page_token", "must come from the page before, with the same request"),),
        ) from None


def _read(text: str, request: object, count: int) -> tuple[int, ...]:
    if len(text) > _MAX_CHARACTERS:
        raise ValueError("too long")
    raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _text(raw) != text:
        raise ValueError("another spelling")
    digest, payload = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
    if digest != _digest(payload, request):
        raise ValueError("another request's")
    found = msgspec.msgpack.decode(payload, type=tuple[int, ...])
    if len(found) != count:
        raise ValueError("another method's")
    if not all(0 <= place < 2**63 for place in found):
        raise ValueError("a number that no place has")
    return found


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _digest(payload: bytes, request: object) -> bytes:
    """`request` is what the token is bound to: anything that msgspec can encode."""
    bound = msgspec.msgpack.encode(request, order="sorted")
    return blake2b(payload + bound, digest_size=_DIGEST_BYTES, person=VERSION).digest()

"""Page tokens: opaque, versioned, bound to the request that they continue.

A token holds a place in an order (integers) and a digest. The digest is no secret: it detects
mistakes. A forged token gives access to nothing that a genuine one does not.
"""

import base64
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from service.rpc.errors import CallRefused, ErrorReason

VERSION = b"desk.page.v1"
_DIGEST_BYTES = 8
_MAX_CHARACTERS = 512


class PageTokens:
    """The tokens of one request.

    Args:
        request: method, journal and filter; anything that msgspec can encode.
        numbers: integers of a place.
    """

    def __init__(self, *request: object, numbers: int) -> None:
        self._request = msgspec.msgpack.encode(request, order="sorted")
        self._numbers = numbers

    def token(self, place: Sequence[int] | None) -> str:
        """Make the token of the page after a place; "" if there is none."""
        if place is None:
            return ""
        payload = msgspec.msgpack.encode(place)
        return _text(self._digest(payload) + payload)

    def place(self, token: str) -> tuple[int, ...] | None:
        """Read a token, None for an empty one; raises INVALID_PAGE_TOKEN."""
        if not token:
            return None
        try:
            return self._read(token)
        except ValueError:  # also binascii's and msgspec's
            description = "must come from the page before, with the same request"
            raise CallRefused(
                ErrorReason.INVALID_PAGE_TOKEN,
                "page_token is not one that this request was given",
                violations=(("page_token", description),),
            ) from None

    def _read(self, token: str) -> tuple[int, ...]:
        if len(token) > _MAX_CHARACTERS:
            raise ValueError("too long")
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        digest, payload = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if _text(raw) != token or digest != self._digest(payload):
            raise ValueError("changed, or of another request")
        place = msgspec.msgpack.decode(payload, type=tuple[int, ...])
        if len(place) != self._numbers or not all(0 <= number < 2**63 for number in place):
            raise ValueError("not a place")
        return place

    def _digest(self, payload: bytes) -> bytes:
        return blake2b(payload + self._request, digest_size=_DIGEST_BYTES, person=VERSION).digest()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")

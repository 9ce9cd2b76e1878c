"""Access to the console, and the limits that browsers keep for its pages."""

import base64
import binascii
import hmac
import re
from collections.abc import Collection, Mapping
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import falcon
import structlog
from falcon.asgi import Request, Response

HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types desk",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""Headers of every answer, which the server adds."""

LIVE = "/livez"
"""The one path that needs no permission."""

_OWN_HOST = re.compile(r"(localhost|[0-9.]+|\[[0-9a-f:.]+\])(:[0-9]*)?", re.IGNORECASE)

_NOBODY = bytes(32)
"""Digest of no password."""

log = structlog.get_logger()


class Access:
    """Decides who may see the console.

    Without passwords and proxy, whoever is on this machine may.

    Args:
        passwords: by user; empty if the console has none.
        user_header: header in which a trusted proxy names the user; "" for none.
        proxies: addresses or networks of such proxies.
    """

    def __init__(
        self,
        *,
        passwords: Mapping[str, str] = {},
        user_header: str = "",
        proxies: Collection[str] = (),
    ) -> None:
        self._passwords = {user: _digest(password) for user, password in passwords.items()}
        self._user_header = user_header
        self._proxies = [ip_network(proxy) for proxy in proxies]

    async def process_request(self, request: Request, response: Response) -> None:
        """Refuse whoever may not see the console."""
        if request.path == LIVE:
            return
        _check_origin(request)
        if self._user_header:
            self._check_proxy(request)
        elif self._passwords:
            self._check_password(request)
        else:
            _check_host(request)

    async def process_response(
        self, request: Request, response: Response, resource: object, succeeded: bool
    ) -> None:
        """Keep browsers from storing an answer, unless it has a Cache-Control of its own."""
        if "cache-control" not in response.headers:
            response.set_header("Cache-Control", "no-store")

    def _check_proxy(self, request: Request) -> None:
        peer = _peer(request)
        trusted = peer is not None and any(peer in network for network in self._proxies)
        if not trusted or not request.get_header(self._user_header):
            raise falcon.HTTPForbidden(description="ask through the proxy, which signs users in")

    def _check_password(self, request: Request) -> None:
        header = request.get_header("Authorization") or ""
        user, password = _credentials(header)
        expected = self._passwords.get(user, _NOBODY)
        if not hmac.compare_digest(_digest(password), expected):
            if header:  # a browser asks without one at first
                log.warning("password_refused", peer=str(_peer(request)))
            raise falcon.HTTPUnauthorized(
                description="a user and a password are needed",
                challenges=['Basic realm="desk", charset="UTF-8"'],
            )


def _check_origin(request: Request) -> None:
    """Refuse what a page elsewhere loads. Links to the console remain possible."""
    elsewhere = request.get_header("Sec-Fetch-Site") == "cross-site"
    if elsewhere and request.get_header("Sec-Fetch-Mode") != "navigate":
        raise falcon.HTTPForbidden(description="another site may link here, and nothing else")


def _check_host(request: Request) -> None:
    """Refuse any name but localhost: a page elsewhere can let its own name lead here.

    Addresses are allowed: nobody can make one lead elsewhere. (DNS rebinding)
    """
    host = request.get_header("Host", default="localhost")
    if not _OWN_HOST.fullmatch(host):
        raise falcon.HTTPError(
            "421 Misdirected Request", description=f"this console is not called {host[:100]!r}"
        )


def _peer(request: Request) -> IPv4Address | IPv6Address | None:
    """Return the address at the other end of the connection; None if that has none."""
    try:
        peer = ip_address(request.scope["client"][0])
    except (KeyError, TypeError, ValueError):
        return None
    return getattr(peer, "ipv4_mapped", None) or peer  # of a socket that listens on [::]


def _digest(password: str) -> bytes:
    """Return a digest: a comparison of two takes as long whatever their lengths."""
    return sha256(password.encode()).digest()


def _credentials(header: str) -> tuple[str, str]:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password

"""Who may see the console, and what a browser may do with its pages."""

import base64
import binascii
import hmac
from collections.abc import Collection, Mapping
from ipaddress import ip_address

import falcon
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
"""Headers of every answer."""

LIVE = "/livez"
"""The one path that needs no permission."""


class Access:
    """Decides who may see the console.

    Args:
        passwords: by user; empty if the console has none.
        user_header: header in which a trusted proxy names the user; "" for none.
        proxies: addresses of such proxies.
        hosts: names by which a console without passwords and proxy may be called. Any other is
            refused: a page elsewhere could have its name changed to this address.
    """

    def __init__(
        self,
        *,
        passwords: Mapping[str, str] = {},
        user_header: str = "",
        proxies: Collection[str] = (),
        hosts: Collection[str] = ("localhost", "127.0.0.1", "::1"),
    ) -> None:
        self._passwords = passwords
        self._user_header = user_header
        self._proxies = {ip_address(proxy) for proxy in proxies}
        self._hosts = hosts

    async def process_request(self, request: Request, response: Response) -> None:
        """Refuse whoever may not see the console."""
        if request.path == LIVE:
            return
        if self._user_header:
            self._check_proxy(request)
        elif self._passwords:
            self._check_password(request)
        elif request.host not in self._hosts:
            raise falcon.HTTPError(
                "421 Misdirected Request",
                description=f"this console is not called {request.host[:100]!r}",
            )

    async def process_response(
        self, request: Request, response: Response, resource: object, succeeded: bool
    ) -> None:
        """Say what a browser may do."""
        response.set_headers(HEADERS)
        if "cache-control" not in response.headers:
            response.set_header("Cache-Control", "no-store")

    def _check_proxy(self, request: Request) -> None:
        peer = request.scope.get("client")
        try:
            trusted = peer is not None and ip_address(peer[0]) in self._proxies
        except ValueError:
            trusted = False
        if not trusted or not request.get_header(self._user_header):
            raise falcon.HTTPForbidden(description="come by the proxy, which signs you in")

    def _check_password(self, request: Request) -> None:
        user, password = _credentials(request.get_header("Authorization") or "")
        expected = self._passwords.get(user, "")
        matches = hmac.compare_digest(password.encode(), expected.encode())
        if not (matches and expected):
            raise falcon.HTTPUnauthorized(challenges=['Basic realm="desk", charset="UTF-8"'])


def _credentials(header: str) -> tuple[str, str]:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password

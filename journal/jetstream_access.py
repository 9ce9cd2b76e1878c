"""Access to NATS: addresses of the servers, and credentials. Files are read at each connect."""

import base64
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys
from nats.errors import Error as NatsError

_JWT = re.compile(r"BEGIN NATS USER JWT-+\s+(\S+)")
_SEED = re.compile(r"BEGIN USER NKEY SEED-+\s+(\S+)")


class TlsContext(ssl.SSLContext):
    """A context for one connection. nats-py goes on without TLS if a server offers none.

    Attributes:
        used: for a handshake.
    """

    used = False

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        self.used = True
        return super().wrap_bio(*arguments, **options)


@dataclass(frozen=True, kw_only=True)
class Access:
    """The operator's options.

    Attributes:
        servers: `nats://host:port` each, without credentials.
        creds: file of a user's JWT and seed, as `nsc` writes it.
        nkey: file of a user's seed.
        user: name, with the password in `password_file`.
        tls_ca: authorities to trust, PEM; None: the system's. With it TLS is required.
        tls_cert: our certificate, PEM, with the key in `tls_key`.
    """

    servers: tuple[str, ...]
    creds: Path | None = None
    nkey: Path | None = None
    user: str | None = None
    password_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @property
    def requires_tls(self) -> bool:
        return bool(self.tls_ca or self.tls_cert)

    def tls(self) -> TlsContext:
        context = TlsContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.tls_ca:
            context.load_verify_locations(self.tls_ca)
        else:
            context.load_default_certs()
        if self.tls_cert:
            context.load_cert_chain(self.tls_cert, self.tls_key)
        return context

    def options(self, server: str, tls: TlsContext) -> dict[str, Any]:
        """Return the options of nats-py for a connection to a server."""

        def password() -> str:  # asked for when the connection would have TLS
            self.check_tls(used=tls.used)
            return self._password()

        return {
            "servers": [server],
            "user_credentials": self.creds,
            "nkeys_seed": str(self.nkey) if self.nkey else None,
            "user": self.user,
            "password": password if self.password_file else None,
            "tls": tls,
        }

    def sign_in(self, server: Mapping[str, Any]) -> dict[str, str]:
        """Return the fields of CONNECT that answer a server's INFO."""
        if self.user:
            return {"user": self.user, "pass": self._password()}
        if self.creds:
            text = self.creds.read_text()
            jwt, seed = _JWT.search(text), _SEED.search(text)
            if not (jwt and seed):
                raise ValueError(f"{self.creds} has no JWT or no seed")
            return {"jwt": jwt[1], "sig": _signed(seed[1], server)}
        if self.nkey:
            seed_text = self.nkey.read_text().strip()
            public = _pair(seed_text).public_key.decode()
            return {"nkey": public, "sig": _signed(seed_text, server)}
        return {}

    def check_tls(self, *, used: bool) -> None:
        """Refuse a connection in clear.

        Raises:
            nats.errors.Error: TLS is required, and this connection has none.
        """
        if self.requires_tls and not used:
            raise NatsError("the server offers no TLS")

    def _password(self) -> str:
        return self.password_file.read_text().strip() if self.password_file else ""


def _signed(seed: str, server: Mapping[str, Any]) -> str:
    return base64.b64encode(_pair(seed).sign(str(server.get("nonce", "")).encode())).decode()


def _pair(seed: str) -> nkeys.KeyPair:
    try:
        return nkeys.from_seed(bytearray(seed.encode()))
    except nkeys.NkeysError as error:
        raise ValueError(str(error)) from None

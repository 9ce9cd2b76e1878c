"""Access to NATS: addresses of the servers, and credentials. Files are read at each connect."""

import base64
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys
from nats.errors import Error as NatsError

_JWT = re.compile(r"BEGIN NATS USER JWT-+\s+(\S+)")
_SEED = re.compile(r"BEGIN USER NKEY SEED-+\s+(\S+)")


class TlsContext(ssl.SSLContext):
    """A context for one connection. nats-py goes on without TLS if a server offers none.

    The system's authorities are read for a handshake only. They are many, and while NATS is away
    there are several attempts a second to connect.

    Attributes:
        used: for a handshake.
        trusts_system: the system's authorities are trusted.
    """

    used = False
    trusts_system = False

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        self._prepare()
        return super().wrap_bio(*arguments, **options)

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        self._prepare()
        return super().wrap_socket(*arguments, **options)

    def _prepare(self) -> None:
        self.used = True
        if self.trusts_system:
            self.load_default_certs()


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
        """Return a new context.

        Raises:
            ValueError: a file cannot be used.
        """
        context = TlsContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.tls_ca:
            with _named(self.tls_ca):
                context.load_verify_locations(self.tls_ca)
        else:
            context.trusts_system = True
        if self.tls_cert:
            with _named(self.tls_cert):
                context.load_cert_chain(self.tls_cert, self.tls_key)
        return context

    def options(self, server: str, tls: TlsContext) -> dict[str, Any]:
        """Return the options of nats-py for a connection to a server.

        Raises:
            OSError, ValueError: a file cannot be used.
        """
        self.sign_in({})  # its errors are clearer than those of nats-py

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
        nonce = str(server.get("nonce", "")).encode()
        if self.creds:
            text = self.creds.read_text()
            jwt, seed = _JWT.search(text), _SEED.search(text)
            if not (jwt and seed):
                raise ValueError(f"{self.creds} has no JWT or no seed")
            return {"jwt": jwt[1], "sig": _signed(_pair(seed[1], self.creds), nonce)}
        if self.nkey:
            pair = _pair(self.nkey.read_text().strip(), self.nkey)
            return {"nkey": pair.public_key.decode(), "sig": _signed(pair, nonce)}
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


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Name the file in an error of TLS."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}") from None


def _pair(seed: str, file: Path) -> nkeys.KeyPair:
    try:
        return nkeys.from_seed(bytearray(seed.encode()))
    except nkeys.NkeysError as error:
        raise ValueError(f"{file}: {error}") from None


def _signed(pair: nkeys.KeyPair, nonce: bytes) -> str:
    return base64.b64encode(pair.sign(nonce)).decode()

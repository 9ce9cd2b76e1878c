"""The files of TLS: read together, and checked before they are used. Knows nothing of gRPC."""

import re
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from storage.changes import FileProblem, Unreadable, read_file, version_of


class Certificate(NamedTuple):
    """Content of the files, in PEM, and the Unix time at which the certificate ends."""

    key: bytes
    chain: bytes
    client_ca: bytes | None
    ends_at: float


class CertificateFiles(NamedTuple):
    """Paths of a certificate chain, its key, and the authorities of clients' certificates."""

    chain: Path
    key: Path
    client_ca: Path | None = None

    def paths(self) -> list[Path]:
        return [path for path in self if path]

    def read(self) -> Certificate:
        """Read all files as of one moment, and check that the key belongs to the certificate.

        Raises:
            FileProblem: a file is missing or invalid, the pair does not match, or a file
                was written meanwhile.
        """
        version = version_of(self.paths())
        chain, key, *others = map(read_file, self.paths())
        _check_pair(self.chain, self.key)
        if self.client_ca:
            _check_authorities(self.client_ca, others[0])
        if version_of(self.paths()) != version:
            raise Unreadable("the files changed while they were read")
        try:
            _check_kind(chain)
            return Certificate(key, chain, others[0] if others else None, ends_at(chain))
        except FileProblem as problem:
            raise FileProblem(f"{self.chain}: {problem}") from None


def _check_pair(chain: Path, key: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # The password: OpenSSL would ask for one on the terminal.
        context.load_cert_chain(chain, key, password="-")  # noqa: S106
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise FileProblem(f"the key {key} does not match {chain}") from None
        raise FileProblem(f"{chain} and {key} are no certificate and key in PEM") from None
    except OSError as error:  # removed since it was read
        raise Unreadable(f"{chain} or {key}: {error.strerror}") from None


def _check_authorities(path: Path, content: bytes) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cadata=content.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        raise FileProblem(f"{path} has no certificates in PEM") from None


# The standard library shows nothing of one's own certificate, so its fields are found by hand (RFC
# 5280, 4.1). OpenSSL has accepted it before.

_FIRST = re.compile(
    rb"^-----BEGIN CERTIFICATE-----\s.*?-----END CERTIFICATE-----", re.DOTALL | re.MULTILINE
)
_VERSION, _UTC_TIME = 0xA0, 0x17

# Algorithm and parameters of a key. With others the TLS library of gRPC fails, at start or at each
# handshake.
_RSA = bytes.fromhex("06092a864886f70d0101010500")
_P256 = bytes.fromhex("06072a8648ce3d020106082a8648ce3d030107")
_P384 = bytes.fromhex("06072a8648ce3d020106052b81040022")

Element = tuple[int, bytes]
"""Tag and content of a DER element."""


def ends_at(chain: bytes) -> float:
    """Return the Unix time at which the first certificate of a chain in PEM ends.

    Raises:
        FileProblem: there is no certificate.
    """
    validity, _ = _fields(chain)
    tag, not_after = _elements(validity)[1]
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(not_after.decode("ascii"), form).replace(tzinfo=UTC).timestamp()


def _check_kind(chain: bytes) -> None:
    _, public_key = _fields(chain)
    if _elements(public_key)[0][1] not in (_RSA, _P256, _P384):
        raise FileProblem("gRPC takes certificates with RSA, P-256 or P-384 keys only")


def _fields(chain: bytes) -> tuple[bytes, bytes]:
    """Return validity and public key of the first certificate of a chain, in DER."""
    first = _FIRST.search(chain)
    if first is None:
        raise FileProblem("there is no line -----BEGIN CERTIFICATE-----")
    ((_, certificate),) = _elements(ssl.PEM_cert_to_DER_cert(first[0].decode("ascii")))
    (_, to_be_signed), *_ = _elements(certificate)
    fields = _elements(to_be_signed)
    if fields[0][0] == _VERSION:
        del fields[0]
    _serial, _signature, _issuer, (_, validity), _subject, (_, public_key), *_ = fields
    return validity, public_key


def _elements(der: bytes) -> list[Element]:
    """Return the DER elements that stand one after the other in some bytes."""
    found, position = [], 0
    while position < len(der):
        tag, length, start = der[position], der[position + 1], position + 2
        if length >= 0x80:  # the number of bytes of the length
            start, length = (
                start + length - 0x80,
                int.from_bytes(der[start : start + length - 0x80]),
            )
        position = start + length
        found.append((tag, der[start:position]))
    return found

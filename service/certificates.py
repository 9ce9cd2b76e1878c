"""The files of TLS: read together, and checked before they are used. Knows nothing of gRPC."""

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
        return Certificate(key, chain, others[0] if others else None, _end_of(chain))


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


# Only the field `notAfter` is wanted of X.509 (RFC 5280, 4.1), which the standard library does not
# show of one's own certificate. OpenSSL has accepted the certificate before.

_VERSION, _UTC_TIME = 0xA0, 0x17


def _end_of(chain: bytes) -> float:
    """Return the Unix time at which the first certificate of a chain ends."""
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    first = begin + chain.partition(begin)[2].partition(end)[0] + end
    der = ssl.PEM_cert_to_DER_cert(first.decode("ascii"))
    _, certificate, _ = _element(der, 0)
    _, position, _ = _element(der, certificate)
    tag, _, following = _element(der, position)
    # serialNumber, signature and issuer come before the validity; a version before all of them.
    for _ in range(4 if tag == _VERSION else 3):
        position = following
        _, _, following = _element(der, position)
    _, not_before, _ = _element(der, position)
    tag, start, stop = _element(der, _element(der, not_before)[2])
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(der[start:stop].decode("ascii"), form).replace(tzinfo=UTC).timestamp()


def _element(der: bytes, position: int) -> tuple[int, int, int]:
    """Return the tag of a DER element, and where its content starts and stops."""
    tag, length, start = der[position], der[position + 1], position + 2
    if length >= 0x80:  # the number of bytes of the length
        start, length = start + length - 0x80, int.from_bytes(der[start : start + length - 0x80])
    return tag, start, start + length

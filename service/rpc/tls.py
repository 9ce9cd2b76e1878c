"""TLS of the gRPC port. New files are used by the next connections, without a restart."""

import threading
from datetime import UTC, datetime

import grpc
import structlog

from service.certificates import Certificate, CertificateFiles
from storage.changes import PERIOD, Followed

_log = structlog.get_logger()


class Tls:
    """The certificate in use, which follows its files.

    Args:
        files: of the certificate, its key, and the authorities of clients.
        period: seconds between two looks at the files.

    Raises:
        FileProblem: the files cannot be used.
    """

    def __init__(self, files: CertificateFiles, *, period: float = PERIOD) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._certificate = Followed("certificate", files.read, files.paths(), period=period)
        self._in_use = self._certificate.value
        self.reload = self._certificate.reload

    @property
    def ends_at(self) -> float:
        """The Unix time at which the certificate ends that the next connection gets."""
        with self._lock:
            return self._newest().ends_at

    def credentials(self) -> grpc.ServerCredentials:
        """Make the credentials of a port. Clients need a certificate if they have authorities."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._certificate.value),
            self._fetch,  # type: ignore[arg-type]  # None: unchanged
            require_client_authentication=self._files.client_ca is not None,
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return a new configuration, None if it is unchanged. gRPC calls it in its threads."""
        with self._lock:
            if self._newest() == self._in_use:
                return None
            self._in_use = self._certificate.value
            return _configuration(self._in_use)

    def _newest(self) -> Certificate:
        if self._certificate.refresh():
            ends = datetime.fromtimestamp(self._certificate.value.ends_at, UTC).isoformat()
            _log.info("certificate_reloaded", file=str(self._files.chain), ends=ends)
        return self._certificate.value


def _configuration(certificate: Certificate) -> grpc.ServerCertificateConfiguration:
    pairs = [(certificate.key, certificate.chain)]
    return grpc.ssl_server_certificate_configuration(pairs, certificate.client_ca)

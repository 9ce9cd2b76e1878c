"""Settings of gRPC: its address, its certificate, and its clients."""

from pathlib import Path

from pydantic import ValidationInfo
from pydantic import field_validator as check
from pydantic_settings import BaseSettings

from command.address import DEFAULT_GRPC, Address
from command.values import Listen, require_all_or_none
from service.certificates import CertificateFiles
from service.clients import read_clients


class GrpcSettings(BaseSettings):
    """The settings of gRPC; a part of `Settings`.

    Attributes:
        grpc_tls_cert: the certificate chain of gRPC, in PEM; None: no TLS.
        grpc_tls_key: its key.
        grpc_client_ca: the authorities whose certificates clients must have; None: they need none.
        clients_file: the clients of gRPC; None: everybody who can connect may read everything.
        grpc_insecure: the network is trusted: gRPC may leave the machine unprotected.
        grpc_listen: address of the rpc workers.
    """

    grpc_tls_cert: Path | None = None
    grpc_tls_key: Path | None = None
    grpc_client_ca: Path | None = None
    clients_file: Path | None = None
    grpc_insecure: bool = False
    grpc_listen: Listen = DEFAULT_GRPC

    @check("grpc_tls_key")
    @classmethod
    def _with_certificate(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        chain = info.data.get("grpc_tls_cert")
        require_all_or_none(DESK_GRPC_TLS_CERT=chain, DESK_GRPC_TLS_KEY=key)
        if chain and key:
            CertificateFiles(chain, key).read()
        return key

    @check("grpc_client_ca")
    @classmethod
    def _with_tls(cls, client_ca: Path | None, info: ValidationInfo) -> Path | None:
        if client_ca is None:
            return None
        chain, key = info.data.get("grpc_tls_cert"), info.data.get("grpc_tls_key")
        if chain and key:
            CertificateFiles(chain, key, client_ca).read()
        elif "grpc_tls_key" in info.data:
            raise ValueError("needs DESK_GRPC_TLS_CERT and DESK_GRPC_TLS_KEY")
        return client_ca

    @check("clients_file")
    @classmethod
    def _usable_clients(cls, path: Path | None) -> Path | None:
        if path:
            read_clients(path)
        return path

    @check("grpc_listen")
    @classmethod
    def _loopback_or_protected(cls, listen: Address, info: ValidationInfo) -> Address:
        if listen.is_loopback or info.data.get("grpc_insecure", True):
            return listen
        if not info.data.get("grpc_tls_cert", True):
            missing = "gRPC has no TLS here: set DESK_GRPC_TLS_CERT and _KEY"
        elif not (info.data.get("grpc_client_ca", True) or info.data.get("clients_file", True)):
            missing = "anybody may call: set DESK_CLIENTS_FILE or DESK_GRPC_CLIENT_CA"
        else:
            return listen
        raise ValueError(
            f"{listen} leaves this machine and {missing}, listen on loopback, or set "
            "DESK_GRPC_INSECURE=true if the network is trusted"
        )

    def certificate_files(self) -> CertificateFiles | None:
        """Return the files of gRPC's TLS; None without TLS."""
        if self.grpc_tls_cert is None or self.grpc_tls_key is None:
            return None
        return CertificateFiles(self.grpc_tls_cert, self.grpc_tls_key, self.grpc_client_ca)

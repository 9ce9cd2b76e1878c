"""Certificates for tests, made by the `openssl` command, so that nothing needs installing."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key, in PEM."""

    chain: Path
    key: Path

    def replace(self, other: "Pair") -> None:
        """Put the files of another pair in the place of these."""
        for here, there in ((self.chain, other.chain), (self.key, other.key)):
            copy = here.with_suffix(".new")
            copy.write_bytes(there.read_bytes())
            copy.replace(here)


class Authority:
    """An authority with a certificate of its own.

    Args:
        folder: for its files.
        name: unique in the folder.
    """

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._name = name
        self.own = self._make(name, f"/CN={name}")

    @property
    def file(self) -> Path:
        return self.own.chain

    def issue(self, name: str, san: str = "DNS:localhost,IP:127.0.0.1", *, days: int = 30) -> Pair:
        """Make a certificate; without `san` it has a common name only."""
        extensions = ["-addext", "basicConstraints=critical,CA:FALSE"]
        if san:
            extensions += ["-addext", f"subjectAltName={san}"]
        own = ["-CA", str(self.own.chain), "-CAkey", str(self.own.key)]
        own += ["-days", str(days)]
        return self._make(f"{self._name}-{name}", f"/CN={name}", *own, *extensions)

    def credentials(self, pair: Pair | None = None) -> grpc.ChannelCredentials:
        """Trust this authority; show a certificate, if any."""
        return grpc.ssl_channel_credentials(
            self.file.read_bytes(),
            pair.key.read_bytes() if pair else None,
            pair.chain.read_bytes() if pair else None,
        )

    def _make(self, name: str, subject: str, *options: str) -> Pair:
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-nodes", "-subj", subject),
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
                *("-keyout", pair.key, "-out", pair.chain, *options),
            ],
            check=True,
            capture_output=True,
        )
        return pair

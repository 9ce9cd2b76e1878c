"""Host and port as text, for listening and for connecting, and the defaults. Opens nothing."""

import ipaddress
import re
from typing import NamedTuple, Self

_HOST_PORT = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]+)"
)
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (recognised, not bound)


class Address(NamedTuple):
    """A host name or IP address, without brackets, and a port; port 0 means any that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host:port`, an IPv6 address in brackets.

        Raises:
            ValueError: it is something else.
        """
        match = _HOST_PORT.fullmatch(text)
        if match is None or int(match["port"]) > 65_535:
            raise ValueError("must be host:port, an IPv6 address in brackets, the port 0 to 65535")
        if match["v6"]:
            ipaddress.IPv6Address(match["v6"])
        return cls(match["v6"] or match["host"], int(match["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    def from_here(self) -> Self:
        """Return the address that a client on this machine connects to."""
        return self._replace(host=_WILDCARDS.get(self.host, self.host))


DEFAULT_DATA_DIR = "data"
"""Default of DESK_DATA_DIR."""

DEFAULT_HTTP = Address("127.0.0.1", 8080)
"""Default of DESK_HTTP_LISTEN."""

DEFAULT_GRPC = Address("127.0.0.1", 50051)
"""Default of DESK_GRPC_LISTEN."""

DEFAULT_METRICS = Address("127.0.0.1", 9464)
"""Default of DESK_METRICS_LISTEN."""

DEFAULT_CONSOLE = Address("127.0.0.1", 8081)
"""Default of DESK_CONSOLE_LISTEN."""

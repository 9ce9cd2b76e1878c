"""The gateway's report to the service: a small file beside the journal.

For `GetStatus`, which answers in another process and perhaps in another container. It is replaced
as a whole, and may be some seconds old.
"""

import os
from contextlib import suppress
from pathlib import Path

import msgspec

NAME = "gateway.json"


class AppReport(msgspec.Struct, kw_only=True):
    """The requests for one app since the gateway's start.

    Attributes:
        sdk_app_id: one of the configured apps; 0: requests that named none of them.
        signatures_checked: its callbacks need a signature.
        last_callback_at: Unix time (ms) of the last one that is in the journal; 0: none.
        outcomes: number of requests by the outcome of `desk_callbacks_total`.
    """

    sdk_app_id: int
    signatures_checked: bool = False
    last_callback_at: int = 0
    outcomes: dict[str, int] = {}


class GatewayReport(msgspec.Struct, kw_only=True):
    """The state of a gateway; times are Unix time in ms."""

    started_at: int
    reported_at: int
    apps: list[AppReport]


def save(report: GatewayReport, data_dir: Path) -> None:
    """Replace the report; on a full disk, leave it as it is."""
    new = data_dir / f"{NAME}.new"
    with suppress(OSError):
        new.touch(mode=0o600)
        new.write_bytes(msgspec.json.encode(report))
        os.replace(new, data_dir / NAME)


def load(data_dir: Path) -> GatewayReport | None:
    """Return the last report, or None if there is none that can be read."""
    with suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((data_dir / NAME).read_bytes(), type=GatewayReport)
    return None

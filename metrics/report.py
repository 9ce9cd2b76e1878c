"""Reports of other processes to the rpc workers: small files in the data directory.

For `GetStatus`, which answers in another process and perhaps in another container. Each is replaced
as a whole, and may be some seconds old.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec


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


class ScrubReport(msgspec.Struct, kw_only=True):
    """The comparison of the journal with the view; see `service.scrub`.

    Attributes:
        journal_id: of the journal.
        revision: the last one that was compared in this pass.
        completed_at: Unix time (ms) at which the last pass ended; 0: none has.
        differences: entries that differ, found in this pass.
        differences_before: those found in the pass before.
        first_difference: a sentence on the first of them.
    """

    journal_id: str = ""
    revision: int = 0
    completed_at: int = 0
    differences: int = 0
    differences_before: int = 0
    first_difference: str = ""

    @property
    def shown(self) -> int:
        return max(self.differences, self.differences_before)


class RetentionReport(msgspec.Struct, kw_only=True):
    """The daily forgetting; see `service.retention`.

    Attributes:
        keep: seconds after which sessions are forgotten.
        completed_at: Unix time (ms) at which the last successful run ended; 0: there was none.
        sessions: those that the last run has forgotten, also one that is under way.
        malformed: malformed callbacks, likewise.
        problem: the reason why the last run failed; "" if it did not.
    """

    keep: int = 0
    completed_at: int = 0
    sessions: int = 0
    malformed: int = 0
    problem: str = ""


FILES: dict[type[msgspec.Struct], str] = {
    GatewayReport: "gateway.json",
    ScrubReport: "scrub.json",
    RetentionReport: "retention.json",
}

Report = TypeVar("Report", GatewayReport, ScrubReport, RetentionReport)


def save(report: GatewayReport | ScrubReport | RetentionReport, data_dir: Path) -> None:
    """Replace a report; on a full disk, leave it as it is."""
    name = FILES[type(report)]
    new = data_dir / f"{name}.new"
    with suppress(OSError):
        new.touch(mode=0o600)
        new.write_bytes(msgspec.json.encode(report))
        os.replace(new, data_dir / name)


def load(data_dir: Path, kind: type[Report]) -> Report | None:
    """Return the last report of a kind, or None if there is none that can be read."""
    with suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((data_dir / FILES[kind]).read_bytes(), type=kind)
    return None


def discard(data_dir: Path, kind: type[Report]) -> None:
    """Delete the report of a kind, if there is one."""
    with suppress(OSError):
        (data_dir / FILES[kind]).unlink()

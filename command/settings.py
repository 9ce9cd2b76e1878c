"""The settings of a process, read once from the environment into one frozen object.

Every variable is documented in `.env.example`. No message, repr or error of this module shows a
secret.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo
from pydantic import field_validator as check
from pydantic_settings import (
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    SettingsConfigDict,
)

from callback.decoder import SAMPLE_SDK_APP_ID
from command.address import DEFAULT_DATA_DIR, DEFAULT_METRICS
from command.settings_console import ConsoleSettings
from command.settings_errors import PREFIX, settings_errors
from command.settings_gateway import GatewaySettings
from command.settings_grpc import GrpcSettings
from command.settings_journal import JournalSettings
from command.values import (
    MAX_WAIT,
    AppIds,
    Days,
    Listen,
    ServiceLevel,
    TimeZone,
    number,
    parsed,
    shown,
)

MAX_RPC_WORKERS = 64
"""Guard against a typing error: each worker is a process."""

MAX_TIMEOUT = 24 * 60 * 60
"""Guard against a typing error: seconds of DESK_HANG_TIMEOUT."""

MAX_LAG = 7 * 24 * 60 * 60
MAX_SCRUB_RATE = 10_000
"""Guards against a typing error: seconds of DESK_MAX_LAG, entries of DESK_SCRUB_RATE."""


class Settings(ConsoleSettings, GrpcSettings, GatewaySettings, JournalSettings):
    """The settings of one process, made by `load`.

    The order of the fields matters: a check can use only the fields above its own.

    Attributes:
        data_dir: directory of journal and view; absolute.
        rpc_workers: number of processes that answer gRPC.
        metrics_listen: address of the metrics page; None: no page.
        max_lag: seconds of the view behind the journal above which health is NOT_SERVING; 0: never.
        scrub_rate: entries in a second that the scrub compares with the view; 0: none.
        service_level: the target of board and reports.
        short_abandon: seconds; a user who leaves within them does not count in the service level.
        time_zone: the zone of the days and hours of board and reports.
        retention: the age from which sessions and malformed callbacks are forgotten; None: never.
        retention_at: the time of day, in UTC, at which that is done.
        hang_timeout: seconds without a sign of life after which a process is restarted; 0: never.
        log_level: the lowest level that is logged.
        log_format: `auto` is console on a terminal and JSON elsewhere.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        env_file=".env",
        extra="ignore",  # `settings_warnings` names them
        frozen=True,
        hide_input_in_errors=True,
    )

    data_dir: Path = Field(default=Path(DEFAULT_DATA_DIR), validate_default=True)
    rpc_workers: Annotated[int, number(1, MAX_RPC_WORKERS)] = 1
    metrics_listen: Listen | None = Field(default=DEFAULT_METRICS, validate_default=True)
    max_lag: Annotated[int, number(0, MAX_LAG)] = 60
    scrub_rate: Annotated[int, number(0, MAX_SCRUB_RATE)] = 200
    service_level: Annotated[ServiceLevel, NoDecode, parsed(ServiceLevel.parse)] = ServiceLevel(
        80, 30
    )
    short_abandon: Annotated[int, number(0, MAX_WAIT)] = 10
    time_zone: TimeZone = "UTC"
    retention: Days | None = None
    retention_at: str = "03:00"
    hang_timeout: Annotated[int, number(0, MAX_TIMEOUT)] = 30
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"

    @check("retention_at")
    @classmethod
    def _time_of_day(cls, text: str) -> str:
        if not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", text):
            raise ValueError(f"must be a time of day from 00:00 to 23:59, not {shown(text)}")
        return text

    @check("data_dir")
    @classmethod
    def _usable_directory(cls, path: Path) -> Path:
        if path.exists() and not path.is_dir():
            raise ValueError(f"{shown(str(path))} is not a directory")
        return path.absolute()

    @check("metrics_listen", "console_listen", mode="before")
    @classmethod
    def _off_if_empty(cls, value: Any, info: ValidationInfo) -> Any:
        field = str(info.field_name)
        default = cls.model_fields[field].default
        return None if value == default and cls._is_empty(field) else value

    @check("log_level", "log_format", mode="before")
    @classmethod
    def _in_any_case(cls, word: Any) -> Any:
        return word.lower() if isinstance(word, str) else word

    @classmethod
    def load(cls) -> Self:
        """Read the environment, which wins, and `.env` in the working directory.

        Raises:
            SettingsError: a setting is wrong or missing; the error has all problems.
        """
        with settings_errors():
            return cls()  # type: ignore[call-arg]  # the environment has the rest

    @classmethod
    def _is_empty(cls, field: str) -> bool:
        """Return True if a variable is there and empty: elsewhere that counts as not set."""
        sources = cls.variables(env_ignore_empty=False).values()
        given = [source[name] for source in sources if (name := (PREFIX + field).lower()) in source]
        return given[:1] == [""]

    @classmethod
    def variables(
        cls, *, env_ignore_empty: bool | None = None
    ) -> dict[str, Mapping[str, str | None]]:
        """Return the variables of each source, by name in lower case. The first source wins."""
        return {
            "environment": EnvSettingsSource(cls, env_ignore_empty=env_ignore_empty).env_vars,
            ".env": DotEnvSettingsSource(cls, env_ignore_empty=env_ignore_empty).env_vars,
        }

    def described(self) -> list[dict[str, str]]:
        """Return name, value and source of each setting, for people. Secrets are masked."""
        sources = self.variables()
        described = []
        for field, info in type(self).model_fields.items():
            name = (PREFIX + field).lower()
            source = next((each for each, given in sources.items() if given.get(name)), "default")
            value = getattr(self, field) if info.repr else "(secret)"
            described.append({"name": name.upper(), "value": _shown(value), "source": source})
        return described

    @property
    def is_trial(self) -> bool:
        """True if no app is configured: that of the vendor's sample is taken."""
        return "sdk_app_ids" not in self.model_fields_set


class TrialSettings(Settings):
    """Settings whose default app is the one of the vendor's sample."""

    sdk_app_ids: AppIds = (SAMPLE_SDK_APP_ID,)


class NatsSettings(JournalSettings):
    """The settings of a journal on NATS, for a command that needs no others."""

    model_config = Settings.model_config

    @classmethod
    def load(cls, journal: str) -> Self:
        """As `Settings.load`, with the servers' addresses in `journal`."""
        with settings_errors():
            return cls(journal=journal)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if type(value) is tuple else str(value)

"""The settings of a process, read once from the environment into one frozen object.

Every variable is documented in `.env.example`. No message, repr or error of this module shows a
secret.
"""

import difflib
import math
import re
import stat
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import Field, ValidationError, ValidationInfo
from pydantic import field_validator as check
from pydantic_settings import (
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    SettingsConfigDict,
)

from callback.decoder import SAMPLE_SDK_APP_ID
from command.address import (
    DEFAULT_DATA_DIR,
    DEFAULT_GRPC,
    DEFAULT_HTTP,
    DEFAULT_METRICS,
    Address,
)
from command.console import ConsoleSettings
from command.nats import JournalSettings
from command.token_file import Tokens, check_apps, read_token_file, read_tokens, tokens_variable
from command.values import Listen, number, parsed, shown, time_zone, whole_number
from gateway.options import check_callback_path
from service.certificates import CertificateFiles
from service.clients import read_clients
from storage.changes import FileProblem

MAX_SDK_APP_ID = 2**63 - 1

MAX_RPC_WORKERS = 64
"""Guard against a typing error: each worker is a process."""

MAX_CONNECTIONS = 1_000_000
"""Guard against a typing error: the gateway has a lower limit of its own."""

MAX_TIMEOUT = 24 * 60 * 60
"""Guard against a typing error: seconds of DESK_HANG_TIMEOUT."""

MAX_RETENTION = 36_500
"""Guard against a typing error: days of DESK_RETENTION."""

MAX_LAG = 7 * 24 * 60 * 60
MAX_SCRUB_RATE = 10_000
"""Guards against a typing error: seconds of DESK_MAX_LAG, entries of DESK_SCRUB_RATE."""

MAX_WAIT = 24 * 60 * 60
"""Guard against a typing error: seconds of DESK_SERVICE_LEVEL and DESK_SHORT_ABANDON."""

CERTIFICATE_DAYS = 14
"""Days before the end of a certificate in which it is warned of."""

_PREFIX = "DESK_"
CLIENT_SETTINGS = (
    *("target", "simulate_token"),
    *("client_tls_ca", "client_tls_cert", "client_tls_key", "client_tls_name", "client_key_file"),
)


class SettingsError(Exception):
    """The settings are wrong or incomplete.

    Attributes:
        problems: one line each, which names the variable and shows no secret.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def _read_app_ids(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if "" in parts:
        raise ValueError("has an empty entry: separate the ids by single commas")
    return tuple(sorted({whole_number(part, 1, MAX_SDK_APP_ID) for part in parts}))


def _read_days(text: str) -> timedelta:
    if not text.endswith("d"):
        raise ValueError(f"must be a number of days such as 400d, not {shown(text)}")
    return timedelta(days=whole_number(text.removesuffix("d"), 1, MAX_RETENTION))


AnySettings = TypeVar("AnySettings", bound=JournalSettings)


class ServiceLevel(NamedTuple):
    """A target: percent of users who are answered within so many seconds."""

    percent: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.percent}/{self.seconds}"

    @classmethod
    def parse(cls, text: str) -> Self:
        percent, slash, seconds = text.partition("/")
        if not slash:
            raise ValueError(f"must be like 80/30 (percent within seconds), not {shown(text)}")
        return cls(whole_number(percent, 1, 100), whole_number(seconds, 0, MAX_WAIT))


def _read_time_zone(text: str) -> str:
    try:
        time_zone(text)
    except ValueError:
        raise ValueError(f"must be a time zone such as Asia/Shanghai, not {shown(text)}") from None
    return text


AppIds = Annotated[tuple[int, ...], NoDecode, parsed(_read_app_ids)]
Days = Annotated[timedelta, NoDecode, parsed(_read_days)]


class Settings(ConsoleSettings, JournalSettings):
    """The settings of one process, made by `load`.

    The order of the fields matters: a check can use only the fields above its own.

    Attributes:
        sdk_app_ids: the apps whose callbacks are accepted, ascending.
        callback_tokens_file: the file to read `callback_tokens` from.
        callback_tokens: by app, the tokens that a signature may be made with. Callbacks of an app
            without tokens need no signature.
        allow_unsigned: apps without tokens are meant; there is no warning.
        http_listen: address of the gateway.
        http_connections_per_address: connections that the gateway takes from one address. 0: no
            limit; None: half of all connections.
        callback_path: path of the callback URL.
        grpc_tls_cert: the certificate chain of gRPC, in PEM; None: no TLS.
        grpc_tls_key: its key.
        grpc_client_ca: the authorities whose certificates clients must have; None: they need none.
        clients_file: the clients of gRPC; None: whoever can connect may do everything.
        grpc_insecure: the network is trusted: gRPC may leave the machine unprotected.
        grpc_listen: address of the rpc workers.
        data_dir: directory of journal and view; absolute.
        rpc_workers: number of processes that answer gRPC.
        metrics_listen: address of the metrics page; None: no page.
        max_lag: seconds of the view behind the journal above which health is NOT_SERVING; 0: never.
        scrub_rate: entries in a second that the scrub compares with the view; 0: none.
        service_level: the target of board and reports.
        short_abandon: seconds; who gives up within them is not held against the service.
        time_zone: of the days and hours of board and reports.
        retention: the age from which sessions and malformed callbacks are forgotten; None: never.
        retention_at: the time of day, in UTC, at which that is done.
        hang_timeout: seconds without a sign of life after which a process is restarted; 0: never.
        log_level: the lowest level that is logged.
        log_format: `auto` is console on a terminal and JSON elsewhere.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_ignore_empty=True,
        env_file=".env",
        extra="ignore",  # `warnings` names them
        frozen=True,
        hide_input_in_errors=True,
    )

    sdk_app_ids: AppIds
    callback_tokens_file: Path | None = None
    callback_tokens: Annotated[Tokens, NoDecode] = Field(
        default={}, validate_default=True, repr=False
    )
    allow_unsigned: bool = False
    http_listen: Listen = DEFAULT_HTTP
    http_connections_per_address: Annotated[int, number(0, MAX_CONNECTIONS)] | None = None
    callback_path: str = "/"
    grpc_tls_cert: Path | None = None
    grpc_tls_key: Path | None = None
    grpc_client_ca: Path | None = None
    clients_file: Path | None = None
    grpc_insecure: bool = False
    grpc_listen: Listen = DEFAULT_GRPC
    data_dir: Path = Field(default=Path(DEFAULT_DATA_DIR), validate_default=True)
    rpc_workers: Annotated[int, number(1, MAX_RPC_WORKERS)] = 1
    metrics_listen: Listen | None = Field(default=DEFAULT_METRICS, validate_default=True)
    max_lag: Annotated[int, number(0, MAX_LAG)] = 60
    scrub_rate: Annotated[int, number(0, MAX_SCRUB_RATE)] = 200
    service_level: Annotated[ServiceLevel, NoDecode, parsed(ServiceLevel.parse)] = ServiceLevel(
        80, 30
    )
    short_abandon: Annotated[int, number(0, MAX_WAIT)] = 10
    time_zone: Annotated[str, parsed(_read_time_zone)] = "UTC"
    retention: Days | None = None
    retention_at: str = "03:00"
    hang_timeout: Annotated[int, number(0, MAX_TIMEOUT)] = 30
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"

    @check("callback_tokens", mode="before")
    @classmethod
    def _from_variable_or_file(cls, value: Any, info: ValidationInfo) -> Any:
        file = info.data.get("callback_tokens_file")
        if file and value:
            raise ValueError("is set and so is DESK_CALLBACK_TOKENS_FILE; set one of them")
        if file:
            try:
                return read_token_file(file)
            except FileProblem as problem:
                raise ValueError(f"DESK_CALLBACK_TOKENS_FILE {problem}") from None
        return read_tokens(value) if isinstance(value, str) else value

    @check("callback_tokens")
    @classmethod
    def _of_configured_apps(cls, tokens: Tokens, info: ValidationInfo) -> Tokens:
        variable = tokens_variable(info.data.get("callback_tokens_file"))
        check_apps(tokens, info.data.get("sdk_app_ids", tokens), variable)
        return tokens

    @check("callback_path")
    @classmethod
    def _usable_path(cls, path: str) -> str:
        check_callback_path(path)
        return path

    @check("grpc_tls_key")
    @classmethod
    def _with_certificate(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        chain = info.data.get("grpc_tls_cert")
        if (chain is None) != (key is None):
            given, missing = ("CERT", "KEY") if chain else ("KEY", "CERT")
            raise ValueError(f"DESK_GRPC_TLS_{given} needs DESK_GRPC_TLS_{missing} as well")
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
        return _loaded(cls)

    @classmethod
    def _is_empty(cls, field: str) -> bool:
        """Return True if a variable is there and empty: elsewhere that counts as not set."""
        given = EnvSettingsSource(cls, env_ignore_empty=False).env_vars
        given = {**DotEnvSettingsSource(cls, env_ignore_empty=False).env_vars, **given}
        return given.get((_PREFIX + field).lower()) == ""

    def described(self) -> list[dict[str, str]]:
        """Return name, value and source of each setting, for people. Secrets are masked."""
        environment = EnvSettingsSource(type(self)).env_vars
        file = DotEnvSettingsSource(type(self)).env_vars
        described = []
        for field, info in type(self).model_fields.items():
            name = (_PREFIX + field).lower()
            sources = {"environment": environment, ".env": file}
            source = next((each for each, given in sources.items() if given.get(name)), "default")
            value = getattr(self, field) if info.repr else "(secret)"
            described.append({"name": name.upper(), "value": _shown(value), "source": source})
        return described

    def read_tokens_again(self) -> Tokens:
        """Read `callback_tokens_file` once more; raises FileProblem if it is wrong."""
        if self.callback_tokens_file is None:
            return self.callback_tokens
        tokens = read_token_file(self.callback_tokens_file)
        check_apps(tokens, self.sdk_app_ids, "DESK_CALLBACK_TOKENS_FILE")
        return tokens

    def certificate_files(self) -> CertificateFiles | None:
        """Return the files of gRPC's TLS; None without TLS."""
        if self.grpc_tls_cert is None or self.grpc_tls_key is None:
            return None
        return CertificateFiles(self.grpc_tls_cert, self.grpc_tls_key, self.grpc_client_ca)

    def warnings(self, *, gateway: bool = True) -> list[str]:
        """Return one line for each setting that is allowed, but probably a mistake.

        Args:
            gateway: one of the processes takes callbacks.
        """
        unsigned = self._unsigned_apps() if gateway else []
        doubts = [*unsigned, *self._refused_keys(), *self._ending_certificate()]
        doubts += self._writable_by_all()
        return [*doubts, *map(_did_you_mean, self._unknown_variables())]

    def _unsigned_apps(self) -> list[str]:
        unsigned = [str(app) for app in self.sdk_app_ids if app not in self.callback_tokens]
        if not unsigned or self.allow_unsigned:
            return []
        variable = tokens_variable(self.callback_tokens_file)
        apps = ", ".join(unsigned[:10]) + (", …" if unsigned[10:] else "")
        return [
            f"{variable} has no token for app {apps}: whoever reaches the gateway can "
            "add callbacks; DESK_ALLOW_UNSIGNED=true if that is meant"
        ]

    def _ending_certificate(self) -> list[str]:
        files = self.certificate_files()
        ends_at = files.read().ends_at if files else math.inf
        left = ends_at - time.time()
        if left > CERTIFICATE_DAYS * 86_400:
            return []
        word = "ends" if left > 0 else "ended"
        return [
            f"DESK_GRPC_TLS_CERT {word} at {datetime.fromtimestamp(ends_at, UTC):%Y-%m-%d %H:%M}Z"
        ]

    def _writable_by_all(self) -> list[str]:
        files = ("callback_tokens_file", "clients_file", "grpc_tls_key", "grpc_client_ca")
        given = ((field, getattr(self, field)) for field in files)
        return [
            f"{_PREFIX}{field.upper()} can be written by every user of this machine"
            for field, path in given
            if path and path.stat().st_mode & stat.S_IWOTH
        ]

    def _refused_keys(self) -> list[str]:
        if not self.clients_file or self.grpc_tls_cert or self.grpc_listen.is_loopback:
            return []
        return ["DESK_CLIENTS_FILE without DESK_GRPC_TLS_CERT: only keys from loopback are taken"]

    @classmethod
    def _unknown_variables(cls) -> list[str]:
        given = {**DotEnvSettingsSource(cls).env_vars, **EnvSettingsSource(cls).env_vars}
        known = {(_PREFIX + field).lower() for field in (*cls.model_fields, *CLIENT_SETTINGS)}
        return sorted(
            name.upper() for name in given if name.startswith(_PREFIX.lower()) and name not in known
        )


class TrialSettings(Settings):
    """Settings whose default app is the one of the vendor's sample."""

    sdk_app_ids: AppIds = (SAMPLE_SDK_APP_ID,)

    @property
    def is_trial(self) -> bool:
        """True if no app is configured."""
        return "sdk_app_ids" not in self.model_fields_set

    def _unsigned_apps(self) -> list[str]:
        return [] if self.is_trial else super()._unsigned_apps()


class NatsSettings(JournalSettings):
    """The settings of a journal on NATS, for a command that needs no others."""

    model_config = Settings.model_config

    @classmethod
    def load(cls, journal: str) -> Self:
        """As `Settings.load`, with the servers' addresses in `journal`."""
        return _loaded(lambda: cls(journal=journal))


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if type(value) is tuple else str(value)


def _loaded(make: Callable[[], AnySettings]) -> AnySettings:
    try:
        return make()
    except ValidationError as error:
        raise SettingsError([_line(**problem) for problem in error.errors()]) from None
    except UnicodeDecodeError:
        raise SettingsError([".env is not UTF-8"]) from None
    except OSError as error:
        raise SettingsError([f".env cannot be read: {error.strerror}"]) from None


def _line(
    *, loc: tuple[int | str, ...], type: str, msg: str, ctx: Mapping[str, Any] = {}, **_: object
) -> str:
    """Return a problem that pydantic found as one line, without the input: it may be a secret."""
    variable = _PREFIX + str(loc[0]).upper()
    if type == "missing":
        return f"{variable} must be set"
    if type == "bool_parsing":
        return f"{variable} must be true or false"
    text = msg.removeprefix("Value error, ").replace("Input should be", "must be")
    if text.startswith(_PREFIX):
        return text
    unusable = isinstance(ctx.get("error"), FileProblem)
    return f"{variable} {'cannot be used: ' if unusable else ''}{text}"


def _did_you_mean(variable: str) -> str:
    known = [_PREFIX + field.upper() for field in (*Settings.model_fields, *CLIENT_SETTINGS)]
    close = difflib.get_close_matches(variable, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{shown(variable)[1:-1]} is not a setting{hint}"

"""Settings of the gateway: the apps, their tokens, its address, and the callback URL."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo
from pydantic import field_validator as check
from pydantic_settings import BaseSettings, NoDecode

from command.address import DEFAULT_HTTP
from command.token_file import Tokens, check_apps, read_token_file, read_tokens, tokens_variable
from command.values import AppIds, Listen, number
from gateway.options import check_callback_path
from storage.changes import FileProblem

MAX_CONNECTIONS = 1_000_000
"""Guard against a typing error: the gateway has a lower limit of its own."""


class GatewaySettings(BaseSettings):
    """The settings of the gateway; a part of `Settings`. The service must know the apps, too.

    Attributes:
        sdk_app_ids: the apps whose callbacks are accepted, ascending.
        callback_tokens_file: the file to read `callback_tokens` from.
        callback_tokens: by app, the tokens that a signature may be made with. Callbacks of an app
            without tokens need no signature.
        allow_unsigned: apps without tokens are intended, so that no warning is logged.
        http_listen: address of the gateway.
        http_connections_per_address: connections that the gateway takes from one address. 0: no
            limit; None: half of all connections.
        callback_path: path of the callback URL.
    """

    sdk_app_ids: AppIds
    callback_tokens_file: Path | None = None
    callback_tokens: Annotated[Tokens, NoDecode] = Field(
        default={}, validate_default=True, repr=False
    )
    allow_unsigned: bool = False
    http_listen: Listen = DEFAULT_HTTP
    http_connections_per_address: Annotated[int, number(0, MAX_CONNECTIONS)] | None = None
    callback_path: str = "/"

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

    def read_tokens_again(self) -> Tokens:
        """Read `callback_tokens_file` once more; raises FileProblem if it is wrong."""
        if self.callback_tokens_file is None:
            return self.callback_tokens
        tokens = read_token_file(self.callback_tokens_file)
        check_apps(tokens, self.sdk_app_ids, "DESK_CALLBACK_TOKENS_FILE")
        return tokens

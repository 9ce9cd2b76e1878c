"""The operator's options: the apps, their tokens, and the path of the callback URL."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

LIVE = "/livez"
READY = "/readyz"

MAX_PATH = 1024
"""Characters of the callback URL's path."""

# The characters of a path in RFC 3986, without escapes: Falcon compares decoded paths. Falcon
# refuses empty segments.
_PATH = re.compile(r"(?!.*//)/[A-Za-z0-9\-._~!$&'()*+,;=:@/]*")


def check_callback_path(path: str) -> None:
    """Check that `path` can be the path of the callback URL.

    Raises:
        ValueError: it cannot; the message continues a sentence that begins with the setting.
    """
    if len(path) > MAX_PATH or not _PATH.fullmatch(path):
        raise ValueError("must be a URL path: /, then no query, space, % or empty segment")
    if path in (LIVE, READY):
        raise ValueError(f"{path} is the path where the gateway answers for its own health")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The operator's options.

    Attributes:
        sdk_app_ids: the apps whose callbacks are kept.
        tokens: valid callback tokens by app, see `Authenticator`.
        path: the path of the callback URL.

    Raises:
        ValueError: an invalid app, an empty token, a token of an unknown app, or an invalid path.
    """

    sdk_app_ids: frozenset[int]
    tokens: Mapping[int, tuple[str, ...]] = field(repr=False)
    path: str = "/"

    def __post_init__(self) -> None:
        if not all(0 < app < 2**63 for app in self.sdk_app_ids):
            raise ValueError("an SDKAppID is a number from 1 to 2^63 - 1")
        if not self.tokens.keys() <= self.sdk_app_ids:
            raise ValueError("there is a token for an app that is not among the SDKAppIDs")
        if not all(valid and all(valid) for valid in self.tokens.values()):
            raise ValueError("an app has an empty token or an empty list of tokens")
        check_callback_path(self.path)

"""The paths that the gateway answers at, and which one the callback URL may have."""

import re

LIVE, READY = PROBES = ("/livez", "/readyz")

# What RFC 3986 allows in a path, without escapes: Falcon compares decoded paths. And it refuses
# empty segments.
_PATH = re.compile(r"(?!.*//)/[A-Za-z0-9\-._~!$&'()*+,;=:@/]*")

MAX_PATH = 1024
"""Characters of the callback URL's path."""


def check_callback_path(path: str) -> None:
    """Do nothing if `path` can be that of the callback URL.

    Raises:
        ValueError: it cannot; the message completes a sentence that begins with what was set.
    """
    if len(path) > MAX_PATH or not _PATH.fullmatch(path):
        raise ValueError("must be a URL path: /, then no query, space, % or empty segment")
    if path in PROBES:
        raise ValueError(f"{path} is the path where the gateway answers for its own health")

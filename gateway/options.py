"""The paths of the gateway: those of its probes, and that of the callbacks, which is a setting."""

import re

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

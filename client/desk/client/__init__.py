"""Client of Desk Sessions: questions about sessions, and the feed. Start with `Client`."""

from desk.client.answers import (
    Answer,
    Explanation,
    FoundBoard,
    FoundReport,
    FoundSession,
    FoundSessions,
    SessionCounts,
)
from desk.client.api import Client
from desk.client.errors import (
    ClientError,
    Denied,
    Failed,
    InvalidRequest,
    JournalMismatch,
    NotFound,
    OutOfRange,
    PreconditionFailed,
    Retryable,
    TimedOut,
    TooMany,
    Unavailable,
)
from desk.client.formulas import FORMULAS
from desk.client.replicas import targets_of
from desk.client.security import read_key, tls_credentials
from desk.client.subscription import Update

__version__ = "0.1.0"
"""Version of this package and of the service: both are built from one source."""

__all__ = [
    "FORMULAS",
    "Answer",
    "Client",
    "ClientError",
    "Denied",
    "Explanation",
    "Failed",
    "FoundBoard",
    "FoundReport",
    "FoundSession",
    "FoundSessions",
    "InvalidRequest",
    "JournalMismatch",
    "NotFound",
    "OutOfRange",
    "PreconditionFailed",
    "Retryable",
    "SessionCounts",
    "TimedOut",
    "TooMany",
    "Unavailable",
    "Update",
    "read_key",
    "targets_of",
    "tls_credentials",
]

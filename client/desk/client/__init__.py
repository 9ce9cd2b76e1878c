"""The client library: questions, and the feed with its reconnects. Start with `Client`."""

from desk.client.connection import Client
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
from desk.client.subscription import Update

__all__ = [
    "Client",
    "ClientError",
    "Denied",
    "Failed",
    "InvalidRequest",
    "JournalMismatch",
    "NotFound",
    "OutOfRange",
    "PreconditionFailed",
    "Retryable",
    "TimedOut",
    "TooMany",
    "Unavailable",
    "Update",
]

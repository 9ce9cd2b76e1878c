"""The present sessions, exactly as of one revision, without a long read of the view.

The sessions go on changing while they are sent: what has changed since is looked up in the feed,
which has each session as it was after each of its revisions.
"""

from typing import NamedTuple

from desk.v1.session_pb2 import Session

from service.rpc.errors import Reason, Refused
from service.view.reader import Reader
from service.view.selection import SnapshotSelection


class Part(NamedTuple):
    """Some of the sessions, serialised, and the number up to which they are all there are."""

    sessions: list[bytes]
    reached: int


def read(
    reader: Reader, selection: SnapshotSelection, after: int, revision: int, enough: int
) -> Part:
    """Read the next part of the sessions as of a revision, of `enough` bytes at most.

    Raises:
        Refused: REVISION_NOT_KEPT, if the feed was cut off in the meantime.
    """
    with reader.snapshot():
        rows, reached = reader.snapshot_sessions(selection, after, revision, enough)
        blobs = (_as_of(reader, blob, revision) for _, blob in rows)
        chosen = [blob for blob, session in blobs if selection.selects(session)]
    return Part(chosen, reached)


def _as_of(reader: Reader, blob: bytes, revision: int) -> tuple[bytes, Session]:
    session = Session.FromString(blob)
    if session.revision <= revision:
        return blob, session
    older = reader.session_as_of(session.sdk_app_id, session.session_id, revision)
    if older is None:
        raise Refused(Reason.REVISION_NOT_KEPT, f"revision {revision} is no longer kept")
    return older, Session.FromString(older)

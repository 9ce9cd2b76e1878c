"""Files in the object store beside a journal's stream, for any number of processes.

Stored in the format of NATS (ADR-20), so that `nats object` lists and reads them. Reading is Direct
Get, one piece after another: there is no consumer that could go silent.
"""

import base64
import hashlib
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import msgspec
from nats.js.api import DiscardPolicy, Header, RawStreamMsg, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from journal.errors import Unavailable, Unreadable
from journal.jetstream_access import Access
from journal.jetstream_connection import Connection, Link
from journal.jetstream_stream import StreamOptions

PIECE = 512 * 1024
"""Bytes of a piece: half of what a server takes at once by default."""

KEEP = 14 * 24 * 60 * 60.0
"""Seconds after which the server deletes an object, also one that was never completed."""

CLAIMED = 30 * 60.0
"""Seconds for which a claim holds."""

ANSWER_WITHIN = 2.0
"""Seconds that NATS has for an answer."""

AGAIN_WITHIN, PAUSE = 15.0, 0.25
"""Seconds in which a request is sent again, and between two: an election takes up to 10 s."""

FULL, NOT_NOW = 10077, 503
"""JetStream's error of a stream that has no room; its code of what may do better at once."""

T = TypeVar("T")


class Source(Protocol):
    """A file that is read from its beginning to its end."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none at the end."""
        ...


class StoredObject(msgspec.Struct, frozen=True, omit_defaults=True):
    """The description of an object, as ADR-20 names its fields; `nuid` names its pieces."""

    name: str
    bucket: str
    nuid: str
    size: int
    chunks: int
    digest: str
    mtime: str
    metadata: dict[str, str] = {}
    options: dict[str, int] = {}
    deleted: bool = False


_DECODER = msgspec.json.Decoder(StoredObject)


class ObjectStore:
    """The object store of a journal's stream, which is made with the first claim or object.

    All methods raise `Unavailable` while NATS cannot be reached, or refuses.
    """

    def __init__(self, access: Access, stream: StreamOptions) -> None:
        self._bucket = f"{stream.name}-views"
        self._stream = f"OBJ_{self._bucket}"
        self._config = StreamConfig(
            name=self._stream,
            description="Snapshots of views, by desk-sessions.",
            subjects=[self._subject("C", ">"), self._subject("M", ">")],
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_age=KEEP,
            # Without a limit of their own, snapshots could take the room that callbacks need.
            max_bytes=stream.max_bytes // 2,
            num_replicas=stream.replicas,
            duplicate_window=CLAIMED,
            allow_rollup_hdrs=True,
            allow_direct=True,
        )
        self._connection = Connection(access, _accept)

    def close(self) -> None:
        self._connection.close()

    def all(self) -> list[StoredObject]:
        """Return the complete objects, in no order."""
        found = [self._described(subject) for subject in self._pieces(self._subject("M", "*"))]
        return [each for each in found if each and not each.deleted]

    def claim(self, name: str) -> bool:
        """Return True to the first process that claims `name`, within `CLAIMED` seconds."""
        self._make_bucket()
        mark, subject = uuid4().hex.encode(), self._subject("C", "claim")
        if not self._publish(subject, mark, {Header.MSG_ID.value: name}):
            return True
        # It may have been stored by an attempt of which the answer was lost.
        return self._run(lambda link: link.js.get_last_msg(self._stream, subject)).data == mark

    def put(self, name: str, source: Source, metadata: Mapping[str, str]) -> StoredObject:
        """Store a file, and read back that it is whole.

        Raises:
            Unavailable: it is not stored, also because there is no room.
        """
        self._make_bucket()
        nuid, description = f"{name}-{uuid4().hex[:8]}", self._subject("M", _encoded(name))
        pieces, stored = self._subject("C", nuid), None
        replaced = self._described(description)
        try:
            size, chunks, digest = self._put_pieces(pieces, source)
            stored = StoredObject(
                name=name,
                bucket=self._bucket,
                nuid=nuid,
                size=size,
                chunks=chunks,
                digest=digest,
                mtime=datetime.now(UTC).isoformat(),
                metadata=dict(metadata),
                options={"max_chunk_size": PIECE},
            )
            self._publish(description, msgspec.json.encode(stored), {Header.ROLLUP.value: "sub"})
            self._check_whole(stored)
        except BaseException:
            self._erase(pieces)
            if stored and self._described(description) == stored:
                self._purge(description)
            raise
        if replaced:
            self._erase(self._subject("C", replaced.nuid))
        return stored

    def open(self, stored: StoredObject) -> "Download":
        return Download(stored, lambda after: self._piece(stored, after))

    def delete(self, stored: StoredObject) -> None:
        """Delete an object, and have the servers overwrite it."""
        self._purge(self._subject("M", _encoded(stored.name)))
        self._erase(self._subject("C", stored.nuid))

    def delete_incomplete(self, prefix: str) -> None:
        """Delete the pieces of objects that were begun with a name, and are not complete."""
        whole = {self._subject("C", stored.nuid) for stored in self.all()}
        for subject in set(self._pieces(self._subject("C", "*"))) - whole:
            if subject.startswith(self._subject("C", prefix)):
                self._erase(subject)

    def _subject(self, kind: str, token: str) -> str:
        return f"$O.{self._bucket}.{kind}.{token}"

    def _check_whole(self, stored: StoredObject) -> None:
        description = self._described(self._subject("M", _encoded(stored.name)))
        pieces = self._subject("C", stored.nuid)
        if description != stored or self._pieces(pieces) != {pieces: stored.chunks}:
            raise Unavailable(f"{stored.name} is not whole in the object store")

    def _put_pieces(self, subject: str, source: Source) -> tuple[int, int, str]:
        """Store the content of a file; return its bytes, the number of pieces, and its digest."""
        digest, size, chunks = hashlib.sha256(), 0, 0
        while piece := source.read(PIECE):
            # A piece that is published again is stored once.
            self._publish(subject, piece, {Header.MSG_ID.value: f"{subject}-{chunks}"})
            digest.update(piece)
            size, chunks = size + len(piece), chunks + 1
        return size, chunks, _shown(digest.digest())

    def _publish(self, subject: str, content: bytes, headers: Mapping[str, str]) -> bool:
        """Store a message; return True if there was one with the same id."""

        async def work(link: Link) -> bool:
            answer = await link.js.publish(subject, content, ANSWER_WITHIN, headers=dict(headers))
            return bool(answer.duplicate)

        return self._run(work)

    def _piece(self, stored: StoredObject, after: int) -> RawStreamMsg:
        """Return the piece of an object that follows a sequence of the stream."""
        subject = self._subject("C", stored.nuid)

        async def work(link: Link) -> RawStreamMsg:
            try:
                return await link.js.get_msg(self._stream, after + 1, subject, True, True)
            except NotFoundError:  # the replica that answered may be behind
                return await link.js.get_msg(self._stream, after + 1, subject, next=True)

        return self._run(work)

    def _described(self, subject: str) -> StoredObject | None:
        """Return the object that a message describes; None if it does not, or is gone."""
        try:
            message = self._run(lambda link: link.js.get_last_msg(self._stream, subject))
            return _DECODER.decode(message.data or b"")
        except (NotFoundError, msgspec.DecodeError):
            return None

    def _pieces(self, subjects: str) -> dict[str, int]:
        """Return the number of messages by subject."""
        try:
            info = self._run(lambda link: link.js.stream_info(self._stream, subjects))
        except NotFoundError:  # nothing was stored yet
            return {}
        return info.state.subjects or {}

    def _erase(self, subject: str) -> None:
        """Delete messages one by one: a purge leaves their bytes in the servers' files."""

        async def delete_next(link: Link) -> None:
            found = await link.js.get_msg(self._stream, 1, subject, next=True)
            await link.js.delete_msg(self._stream, found.seq or 0)

        with suppress(NotFoundError):  # no more
            while True:
                self._run(delete_next)

    def _purge(self, subject: str) -> None:
        self._run(lambda link: link.js.purge_stream(self._stream, subject=subject))

    def _make_bucket(self) -> None:
        async def work(link: Link) -> None:
            try:
                await link.js.stream_info(self._stream)
            except NotFoundError:
                await link.js.add_stream(self._config)

        self._run(work)

    def _run(self, work: Callable[[Link], Coroutine[Any, Any, T]]) -> T:
        """Run `work` in the connection's thread, again if NATS does not answer.

        Raises:
            NotFoundError: what it asks for is not there.
            Unavailable: JetStream refuses, or does not answer.
        """

        async def connected() -> T | APIError:
            try:
                return await work(await self._connection.link())
            except APIError as refusal:
                if refusal.code == NOT_NOW and refusal.err_code != FULL:
                    raise
                return refusal

        end = time.monotonic() + AGAIN_WITHIN
        while True:
            try:
                outcome = self._connection.run(connected, timeout=2 * ANSWER_WITHIN)
                break
            except Unavailable:
                self._connection.check_open()
                if time.monotonic() > end:
                    raise
            time.sleep(PAUSE)
        if isinstance(outcome, NotFoundError):
            raise outcome
        if isinstance(outcome, APIError):
            raise Unavailable(f"JetStream refuses it: {outcome.description}")
        return outcome


class Download:
    """An object that is read piece by piece."""

    def __init__(self, stored: StoredObject, piece: Callable[[int], RawStreamMsg]) -> None:
        self._stored = stored
        self._piece = piece
        self._read = 0
        self._sequence = 0
        self._digest = hashlib.sha256()
        self._rest = b""  # of the piece that was read last

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, never more: zstandard copies them to a buffer of that size.

        Raises:
            Unreadable: a piece is missing.
        """
        if not self._rest and self._read < self._stored.chunks:
            self._rest = self._next()
        part, self._rest = self._rest[:size], self._rest[size:]
        return part

    def _next(self) -> bytes:
        try:
            message = self._piece(self._sequence)
        except NotFoundError:
            raise Unreadable(
                f"{self._stored.name} has {self._read} of {self._stored.chunks} pieces"
            ) from None
        self._read, self._sequence = self._read + 1, message.seq or 0
        piece = message.data or b""
        self._digest.update(piece)
        return piece

    def check(self) -> None:
        """Check that all of the object was read, as it was stored.

        Raises:
            Unreadable: it was not.
        """
        if self.read(1) or _shown(self._digest.digest()) != self._stored.digest:
            raise Unreadable(f"{self._stored.name} was changed: it has another digest")


async def _accept(_link: Link) -> None:
    """Use any connection: the journal's reader checks the server."""


def _encoded(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _shown(digest: bytes) -> str:
    return f"SHA-256={base64.urlsafe_b64encode(digest).decode()}"

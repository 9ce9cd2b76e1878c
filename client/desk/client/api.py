"""The client of the API: the methods of all services on one connection."""

from desk.client.admin import AdminMethods
from desk.client.events import EventMethods
from desk.client.figures import FigureMethods
from desk.client.sessions import SessionMethods
from desk.v1.status_pb2 import GetStatusRequest, GetStatusResponse


class Client(SessionMethods, EventMethods, FigureMethods, AdminMethods):
    """A client of the desk.v1 API, to be used as an asynchronous context manager.

    Resume where you stopped, and store your position:

        >>> async def copy_feed(target, store):
        ...     journal_id, revision = store.position()  # ("", 0) at the very first start
        ...     async with Client(target) as client:
        ...         updates = client.subscribe(after_revision=revision, journal_id=journal_id)
        ...         async with contextlib.aclosing(updates):
        ...             async for update in updates:
        ...                 store.save(update.records, update.journal_id, update.revision)
        ...                 if update.caught_up:
        ...                     break

    `save` should write the records and the position in one transaction: then each record takes
    effect exactly once. If that is impossible, write the position last; after a crash some
    records come again, and (`revision`, `ordinal`) tells which you have handled.

    All methods raise subclasses of `ClientError`. Those that an argument or the answer explains
    are listed; any call may also raise `Unavailable`, `TimedOut`, `TooMany` (`Retryable`) or
    `InvalidRequest`, `Denied` (`Failed`).

    Attributes:
        session_service, event_service, status_service, admin_service, board_service,
            report_service: the generated stubs. Wrap their unary calls in `call` for this
            package's errors.
    """

    async def status(self) -> GetStatusResponse:
        """Return the position and the health of the service."""
        return await self.call(self.status_service.GetStatus, GetStatusRequest())

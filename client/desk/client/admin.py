"""Methods of operators: what is forgotten."""

from collections.abc import AsyncGenerator, Iterable
from datetime import datetime

from desk.client.connection import Connection
from desk.client.errors import own_errors
from desk.client.security import with_key
from desk.client.streams import read
from desk.v1.admin_service_pb2 import (
    ForgetRequest,
    ForgetResponse,
    ListForgottenRequest,
    SessionIds,
)
from desk.v1.event_pb2 import Forgotten

STEP_SILENCE = 90.0
"""Seconds without a message after which a Forget has failed: a step takes up to 60 s."""


class AdminMethods(Connection):
    """Methods of `AdminService`."""

    async def forget(
        self,
        *,
        session_ids: Iterable[str] = (),
        client_user_id: str = "",
        agent_id: str = "",
        silent_before: datetime | None = None,
        malformed_before: datetime | None = None,
        sdk_app_id: int = 0,
        dry_run: bool = False,
    ) -> AsyncGenerator[ForgetResponse, None]:
        """Erase sessions or malformed callbacks for good, and yield the totals after each step.

        Give one of the first five arguments. The last message is `complete`. What a step has done
        stays done: after an error, call again to go on.

        Args:
            session_ids: these sessions, at most 1,000.
            client_user_id: the sessions of this user, and malformed callbacks that name it.
            agent_id: the sessions in which this agent took part, likewise.
            silent_before: the sessions without an event or a callback since this time, which has a
                time zone.
            malformed_before: the malformed callbacks that were received before this time, likewise.
            sdk_app_id: the app; 0 = the only configured one.
            dry_run: count only.
        """
        request = ForgetRequest(sdk_app_id=sdk_app_id, dry_run=dry_run)
        if ids := list(session_ids):
            request.sessions.CopyFrom(SessionIds(session_ids=ids))
        if client_user_id:
            request.client_user_id = client_user_id
        if agent_id:
            request.agent_id = agent_id
        if silent_before:
            request.silent_before.FromDatetime(silent_before)
        if malformed_before:
            request.malformed_before.FromDatetime(malformed_before)
        with own_errors():
            call = with_key(self.admin_service.Forget, self._key)(request)
        try:
            complete = False
            while not complete:
                answer: ForgetResponse = await read(call, STEP_SILENCE)
                yield answer
                complete = answer.complete
        finally:
            call.cancel()

    async def list_forgotten(
        self, *, sdk_app_ids: Iterable[int] = (), after_revision: int = 0, page_size: int = 0
    ) -> AsyncGenerator[Forgotten, None]:
        """Yield the FORGET entries that were applied, in the order of their revisions.

        Args:
            sdk_app_ids: of these apps; none = of all.
            after_revision: exclusive; 0 = all that are kept.
            page_size: entries per call, 1 to 1,000; 0 = 100.
        """
        request = ListForgottenRequest(
            sdk_app_ids=list(sdk_app_ids), after_revision=after_revision, page_size=page_size
        )
        async for page in self._pages(self.admin_service.ListForgotten, request):
            for forgotten in page.forgotten:
                yield forgotten

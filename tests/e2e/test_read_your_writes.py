"""Whoever posts a callback can ask for its revision and see it."""

from desk.client import Client
from tests.support.callbacks import NOON
from tests.support.callbacks import body as callback
from tests.support.gateway import Answer, Gateway
from tests.support.processes import start

COUNT = 1_000


def kept(gateway: Gateway, body: bytes) -> Answer:
    """Post a callback, three times at most: a busy machine may not keep it in time."""
    for _ in range(3):
        answer = gateway.post(body)
        if answer.status != 503:
            break
    return answer


async def test_a_session_is_found_at_the_revision_that_the_post_was_answered_with(tmp_path):
    with start("serve", data_dir=tmp_path) as desk:
        gateway = Gateway(desk.http[1], None)  # type: ignore[arg-type]
        async with Client(desk.target) as client:
            journals, found = set(), 0
            for number in range(COUNT):
                session_id = f"session-{number}"
                posted = kept(gateway, callback("SessionBegin", NOON, session_id=session_id))
                revision = int(posted.assert_ok().headers["desk-revision"])
                journals.add(posted.headers["desk-journal-id"])
                answer = await client.get_session(session_id, min_revision=revision)
                found += answer.session.session_id == session_id
            assert found == COUNT
            assert journals == {(await client.status()).header.journal_id}

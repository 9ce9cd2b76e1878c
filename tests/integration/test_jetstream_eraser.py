"""Deletion in a stream: what the reader makes of it, and what is left in the servers' files."""

from contextlib import closing

import pytest

from journal.errors import NotKept
from journal.forgetting import forget_entry
from journal.jetstream import JetStreamOptions, JetStreamWriter
from journal.jetstream_eraser import JetStreamEraser
from tests.support.journals import append
from tests.support.nats import NatsServer


@pytest.fixture
def options(nats: NatsServer) -> JetStreamOptions:
    """Options of a journal that is not there yet."""
    return nats.options()


def name_of(options: JetStreamOptions) -> str:
    return options.stream.name


def test_a_forgotten_beginning_is_no_loss_and_a_purged_one_is(
    nats: NatsServer, options: JetStreamOptions
) -> None:
    with closing(JetStreamWriter(options)) as journal, closing(JetStreamEraser(options)) as eraser:
        revisions = [append(journal, name).revision for name in range(6)]
        forgotten = eraser.forget(forget_entry(1400000001, 1, session_ids=["a"]))
        eraser.delete(revisions[:4])
        later = [append(journal, name).revision for name in "xyz"]
        assert [entry.revision for entry in journal.read(1, limit=9)][:1] == [revisions[4]]
        nats.manage(lambda js: js.purge_stream(name_of(options), seq=later[-1]))
        with pytest.raises(NotKept):
            journal.read(forgotten, limit=9)


def test_a_forget_entry_has_a_subject_of_its_own(
    nats: NatsServer, options: JetStreamOptions
) -> None:
    name = name_of(options)
    with closing(JetStreamWriter(options)), closing(JetStreamEraser(options)) as eraser:
        eraser.forget(forget_entry(1400000001, 1, session_ids=["a"]))
    message = nats.manage(lambda js: js.get_last_msg(name, f"{name}.*.forget"))
    assert (message.data or b"").startswith(b'{"session_ids":["a"]')

"""Probes: the answers of /livez and /readyz, and their conditions."""

import pytest

from journal.errors import Unavailable
from tests.support.gateway import FailingJournal, gateway


@pytest.mark.parametrize("probe", ["/livez", "/readyz"])
def test_probes_answer(probe):
    with gateway() as desk:
        desk.ask("GET", probe).assert_ok()
        assert desk.ask("HEAD", probe).status == 200
        desk.ask("POST", probe).assert_fail(405)


def test_readiness_follows_the_journal_and_liveness_does_not():
    journal = FailingJournal()
    with gateway(journal) as desk:
        desk.ask("GET", "/readyz").assert_ok()
        journal.error = Unavailable("/secret/disk is full")
        desk.post().assert_fail(503)
        desk.ask("GET", "/livez").assert_ok()
        unready = desk.ask("GET", "/readyz").assert_fail(503)
        assert "last commit" in unready.fields["ErrorInfo"]
        assert int(unready.headers["retry-after"]) > 0
        journal.error = None
        desk.post().assert_ok()
        desk.ask("GET", "/readyz").assert_ok()

"""Readiness: follows the journal down and, without any traffic, up again."""

from gateway.readiness import HOLD, Readiness
from journal.errors import Unavailable
from tests.support.gateway import FailingJournal


def test_a_journal_that_answers_is_no_trouble():
    assert Readiness(FailingJournal()).trouble() == ""


def test_a_failed_append_is_trouble_until_one_succeeds():
    readiness = Readiness(FailingJournal())
    readiness.append_failed()
    assert "last callback" in readiness.trouble()
    readiness.append_succeeded()
    assert readiness.trouble() == ""


def test_an_old_failure_does_not_keep_the_traffic_away_that_would_disprove_it():
    now = [100.0]
    readiness = Readiness(FailingJournal(), clock=lambda: now[0])
    readiness.append_failed()
    now[0] += HOLD - 0.1
    assert readiness.trouble()
    now[0] += 0.1
    assert readiness.trouble() == ""


def test_a_journal_that_cannot_be_read_is_trouble_for_as_long_as_that_is_so():
    journal = FailingJournal()
    readiness = Readiness(journal)
    journal.head_error = Unavailable("/secret/path is gone")
    assert readiness.trouble() == "the journal cannot be read: Unavailable"
    journal.head_error = None
    assert readiness.trouble() == ""

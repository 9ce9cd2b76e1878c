"""The table of answers is whole, and says to Desk what HTTP says."""

import json

import pytest

from gateway.acknowledgements import ACKNOWLEDGEMENTS, BODIES, BY_STATUS, Outcome


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_an_answer_whose_fields_agree_with_its_status(outcome):
    answer, fields = ACKNOWLEDGEMENTS[outcome], json.loads(BODIES[outcome])
    succeeded = answer.status == 200
    assert list(fields) == ["ActionStatus", "ErrorInfo", "ErrorCode"]
    assert fields["ActionStatus"] == ("OK" if succeeded else "FAIL")
    assert (fields["ErrorCode"] == 0) is succeeded
    assert (fields["ErrorInfo"] == "") is succeeded
    assert (answer.retry_after is not None) is (answer.status == 503)


def test_success_is_what_the_vendor_shows():
    assert BODIES[Outcome.KEPT] == b'{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}'


def test_error_codes_tell_all_failures_apart():
    codes = [answer.error_code for answer in ACKNOWLEDGEMENTS.values()]
    assert len(set(codes)) == len(codes)


def test_a_status_that_others_chose_stands_for_an_outcome_of_that_status():
    assert all(ACKNOWLEDGEMENTS[outcome].status == code for code, outcome in BY_STATUS.items())

"""The table of answers is whole, and says to Desk what HTTP says."""

import json

import pytest

from gateway.answers import BY_STATUS, Answer


@pytest.mark.parametrize("answer", Answer)
def test_the_fields_of_every_answer_agree_with_its_status(answer):
    fields = json.loads(answer.body)
    succeeded = answer.status == 200
    assert list(fields) == ["ActionStatus", "ErrorInfo", "ErrorCode"]
    assert fields["ActionStatus"] == ("OK" if succeeded else "FAIL")
    assert (fields["ErrorCode"] == 0) is succeeded
    assert (fields["ErrorInfo"] == "") is succeeded
    assert (answer.retry_after is not None) is (answer.status == 503)


def test_success_is_what_the_vendor_shows():
    assert Answer.KEPT.body == b'{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}'


def test_error_codes_tell_all_failures_apart():
    assert len({answer.error_code for answer in Answer}) == len(Answer)


# Desk's operators may have alarms on these.
def test_error_codes_stay_what_they_are():
    assert {answer.name: answer.error_code for answer in Answer if answer.error_code % 100} == {
        "MALFORMED": 40001,
        "WRONG_COMMAND": 40002,
        "NO_COMMAND": 40003,
        "OVERLOADED": 50301,
        "NOT_READY": 50302,
    }


def test_a_status_that_others_chose_gets_an_answer_of_that_status():
    assert {400, 404, 405, 413, 431, 501} <= BY_STATUS.keys()
    assert all(answer.status == code for code, answer in BY_STATUS.items())

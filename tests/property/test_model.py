"""The fold agrees with the rules told a second time, whatever the callbacks and their order."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from journal.callback import Malformed, decode, identify
from service.history import History, Placed, order_key
from tests.support.callbacks import APP, bodies
from tests.support.model import figures, judge

DURATIONS = ("queue_wait", "first_response", "handle_time")


@settings(max_examples=400, deadline=None)
@given(st.lists(bodies(), min_size=1, max_size=24))
def test_verdicts_and_figures_are_those_of_the_rules(given_bodies: list[bytes]) -> None:
    history, documents, ids = History(), {}, {}
    for revision, body in enumerate(dict.fromkeys(given_bodies), 1):
        try:
            callback = decode(body)
        except Malformed:
            continue
        if callback.session_id == "s1":
            ids[revision] = identity = identify(APP, body)
            documents[identity] = json.loads(body)
            history.add(Placed(order_key(callback, identity), revision, callback))
    verdicts, story = judge(documents)
    outcomes = {ids[each.revision]: each.outcome for each in history.tail}
    assert {
        identity: (outcome.verdict.value, outcome.reason.value)
        for identity, outcome in outcomes.items()
        if outcome
    } == verdicts
    session = history.session
    assert {name: getattr(session, name) for name in figures(story)} == figures(story)
    assert session.rejected_events == sum(verdict == "REJECTED" for verdict, _ in verdicts.values())
    assert all((getattr(session, name) or 0) >= 0 for name in DURATIONS)

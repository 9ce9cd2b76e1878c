"""A row wakes exactly the streams whose filter it passes, and a stream skips only what does not."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.rpc.filter_groups import FilterIndex
from service.view.selection import EventSelection, LiveRow

NAMES = ["", "a", "b", "c"]


def some(values: list[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(values), max_size=2, unique=True).map(sorted).map(tuple)


selections = st.builds(
    EventSelection,
    sdk_app_ids=some([1, 2]),
    session_ids=some(NAMES),
    types=some([1, 2]),
    agent_ids=some(NAMES),
    client_user_ids=some(NAMES),
    channel_types=some(NAMES),
    verdicts=st.sampled_from([0, 1, 2, 3]),
)
COLUMNS = (
    *("sdk_app_id", "session_id", "type", "verdicts"),
    *("agent_id", "client_user_id", "channel_type"),
)


def row(position: int, *content: Any) -> LiveRow:
    """A row of which only the position and what filters ask about matter."""
    blank = dict.fromkeys(LiveRow._fields, b"")
    return LiveRow(**(blank | dict(zip(COLUMNS, content, strict=True)) | {"position": position}))


contents = st.tuples(
    st.sampled_from([1, 2]),
    st.sampled_from(NAMES),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
    *[st.sampled_from(NAMES)] * 3,
)
rounds = st.lists(
    st.tuples(st.lists(contents, max_size=6), st.lists(selections, max_size=2)), max_size=8
)


@given(rounds)
def test_after_each_round_every_group_knows_the_last_row_that_passes(rounds: list[Any]):
    index, made, rows = FilterIndex(), {}, []
    announced = 0
    for fresh, joining in rounds:
        new = [row(announced + n, *each) for n, each in enumerate(fresh, 1)]
        rows += new
        head = announced + len(new)
        for each in joining:
            # A group that is made while rows are there that were not announced yet.
            made.setdefault(index.join(each, head), head)
        for _ in index.announce(new, announced):
            pass
        announced = head
        for group, start in made.items():
            passing = [r.position for r in rows if r.position > start and group.selects(r)]
            assert group.last_match == max([start, *passing])
            for position in range(start, announced + 1):
                skipped = [r for r in rows if position < r.position <= group.skip(position)]
                assert not any(map(group.selects, skipped))


@given(st.lists(selections, max_size=6))
def test_nothing_is_left_of_a_group_that_everybody_has_left(asked: list[EventSelection]):
    index = FilterIndex()
    groups = [index.join(each, 0) for each in asked]
    for group in groups:
        index.leave(group)
    assert list(index) == []
    assert len(list(index.announce([row(1, 1, "a", 1, 1, "a", "a", "a")], 0))) == 1


def test_a_row_is_shown_to_the_filters_that_name_one_of_its_values_only():
    index = FilterIndex()
    groups = [index.join(EventSelection(agent_ids=(f"agent-{n}",)), 0) for n in range(1_000)]
    steps = list(index.announce([row(1, 1, "s", 1, 1, "agent-7", "u", "c")], 0))
    assert len(steps) == 2
    assert [n for n, group in enumerate(groups) if group.last_match] == [7]

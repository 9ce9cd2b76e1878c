"""No mutated request is taken that a strict parser refuses or reads otherwise; none takes long."""

from tests.support.mutated_requests import run


def test_what_is_taken_is_read_alike_by_h11_and_nothing_takes_long() -> None:
    outcomes, longest = run(4_000, seed=11)
    assert outcomes["taken"] > 400
    assert outcomes["refused"] > 400
    assert longest < 0.05

"""Sums of offers to agents, for board and reports: exact, and for any thresholds.

Formulas: proto/desk/v1/figures.proto.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from google.protobuf.duration_pb2 import Duration

from desk.v1 import figures_pb2 as pb
from service.figures import Offer, Result
from service.records import duration


class Thresholds(NamedTuple):
    """Thresholds as in desk.v1.Thresholds; times in ms."""

    answer_percent: int = 80
    answer_within: int = 30_000
    short_abandon: int = 10_000

    def message(self) -> pb.Thresholds:
        return pb.Thresholds(
            answer_percent=self.answer_percent,
            answer_within=duration(self.answer_within),
            short_abandon=duration(self.short_abandon),
        )


class Tally:
    """Sums of offers; what was added can be taken away again."""

    def __init__(self) -> None:
        self._results: Counter[Result] = Counter()
        self._forwarded = 0
        self._waits: dict[Result, list[int]] = {Result.ANSWERED: [], Result.ABANDONED: []}

    def add(self, offer: Offer) -> None:
        self._results[offer.result] += 1
        self._forwarded += offer.is_forwarded
        if offer.wait is not None:
            self._waits[offer.result].append(offer.wait)

    def remove(self, offer: Offer) -> None:
        self._results[offer.result] -= 1
        self._forwarded -= offer.is_forwarded
        if offer.wait is not None:
            waits = self._waits[offer.result]
            waits.sort()  # few were added since the last time
            del waits[bisect_left(waits, offer.wait)]

    def include(self, other: "Tally") -> None:
        self._results.update(other._results)
        self._forwarded += other._forwarded
        for result, waits in self._waits.items():
            waits += other._waits[result]

    def __bool__(self) -> bool:
        return any(self._results.values())

    def figures(self, thresholds: Thresholds) -> pb.ServiceFigures:
        for waits in self._waits.values():
            waits.sort()
        count, answer_waits = self._results, self._waits[Result.ANSWERED]
        answered, abandoned = count[Result.ANSWERED], count[Result.ABANDONED]
        within = bisect_right(answer_waits, thresholds.answer_within)
        short = bisect_right(self._waits[Result.ABANDONED], thresholds.short_abandon)
        judged = answered + abandoned - short
        return pb.ServiceFigures(
            offered=count.total(),
            waiting=count[Result.WAITING],
            answered=answered,
            answered_within=within,
            abandoned=abandoned,
            short_abandons=short,
            sent_back=count[Result.SENT_BACK],
            ended_otherwise=count[Result.ENDED_OTHERWISE],
            service_level=ratio(within, judged),
            abandonment_rate=ratio(abandoned - short, judged),
            raw_abandonment_rate=ratio(abandoned, count.total()),
            speed_of_answer=summary(answer_waits),
            forwarded=self._forwarded,
            transfer_rate=ratio(self._forwarded, answered),
        )


def merged(tallies: Sequence[Tally]) -> Tally:
    """Return the sum. If there is one tally only, it is returned itself."""
    if len(tallies) == 1:
        return tallies[0]
    total = Tally()
    for each in tallies:
        total.include(each)
    return total


def ratio(part: int, whole: int) -> float | None:
    """Return a quotient; None if the divisor is 0."""
    return part / whole if whole else None


def summary(times: Sequence[int]) -> pb.WaitSummary:
    """Summarise times in ms, which must be ascending."""
    if not times:
        return pb.WaitSummary()
    return pb.WaitSummary(
        sessions=len(times),
        mean=duration(sum(times) // len(times)),
        median=_percentile(times, 50),
        p90=_percentile(times, 90),
        p99=_percentile(times, 99),
        max=duration(times[-1]),
    )


def _percentile(ascending: Sequence[int], percent: int) -> Duration:
    rank = -(-len(ascending) * percent // 100)  # rounded up: nearest rank
    return duration(ascending[rank - 1])

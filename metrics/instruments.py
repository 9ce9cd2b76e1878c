"""Counters, gauges and histograms that are cheap to update.

Plain numbers, read only when a page is made. Each is changed by one thread: of two changes at once,
one may be lost.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

Labels = tuple[str, ...]
Values = Mapping[Labels, float]


class _Named:
    """A metric: its name, the help text, and the names of its labels.

    Attributes:
        name: as in the page.
    """

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self.name = name
        self._text = text
        self._labels = labels


class _Numbers(_Named):
    """A metric with one number for each combination of labels.

    Attributes:
        values: the numbers, by labels.
        read: called when a page is made; returns the numbers. By default `values`.
    """

    _family: type[CounterMetricFamily] | type[GaugeMetricFamily]

    def __init__(self, name: str, text: str, *labels: str) -> None:
        super().__init__(name, text, *labels)
        self.values: defaultdict[Labels, float] = defaultdict(int)
        self.read: Callable[[], Values] = lambda: self.values

    def collect(self) -> Iterator[Metric]:
        """Yield the metric, without numbers if they cannot be read."""
        family = self._family(self.name, self._text, labels=self._labels)
        with suppress(Exception):  # a disk that fails must not hide all other metrics
            for labels, value in tuple(self.read().items()):
                family.add_metric(labels, value)
        yield family


class Counter(_Numbers):
    """A number that only grows: `COUNTER.values["app", "kept"] += 1`."""

    _family = CounterMetricFamily

    def __init__(self, name: str, text: str, *labels: str) -> None:
        super().__init__(name, text, *labels)
        if not labels:
            self.values[()] = 0


class Gauge(_Numbers):
    """A number that goes up and down, usually read when a page is made."""

    _family = GaugeMetricFamily

    def read_number(self, read: Callable[[], float | None]) -> None:
        """Read a gauge without labels by a function; None: there is no number."""

        def values() -> Values:
            value = read()
            return {} if value is None else {(): value}

        self.read = values


class Distribution:
    """The observations of a histogram with certain labels."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Return the number of observations up to each bound, and the sum of all."""
        names = [*map(str, map(float, self._bounds)), "+Inf"]
        return list(zip(names, accumulate(self._counts), strict=True)), self._sum


class Histogram(_Named):
    """A distribution of values for each combination of labels.

    Attributes:
        of: the distributions, by labels; an index makes a new one.
    """

    def __init__(self, name: str, text: str, *labels: str, bounds: Sequence[float]) -> None:
        super().__init__(name, text, *labels)
        self.of: defaultdict[Labels, Distribution] = defaultdict(lambda: Distribution(bounds))
        if not labels:
            self.observe = self.of[()].observe

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self.name, self._text, labels=self._labels)
        for labels, distribution in tuple(self.of.items()):
            family.add_metric(labels, *distribution.buckets())
        yield family


Instrument = Counter | Gauge | Histogram

Group = tuple[Instrument, ...]
"""The metrics of one part of the service."""

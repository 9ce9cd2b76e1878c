"""The page of metrics, parsed as Prometheus parses it."""

import http.client
from collections import defaultdict
from collections.abc import Mapping

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families


class Page:
    """The metrics of one scrape, by name; a counter's ends in `_total`."""

    def __init__(self, text: str) -> None:
        self.metrics: dict[str, Metric] = {}
        for metric in text_string_to_metric_families(text):
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            assert name not in self.metrics, f"{name} is there twice"
            self.metrics[name] = metric

    def samples(self, name: str, **labels: str) -> dict[Mapping[str, str], float]:
        """Return the samples with this name and these labels, by all labels."""
        return {
            frozenset(sample.labels.items()): sample.value
            for metric in self.metrics.values()
            for sample in metric.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        }

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of these samples."""
        return sum(self.samples(name, **labels).values())

    def names_of_samples(self) -> set[str]:
        return {sample.name for metric in self.metrics.values() for sample in metric.samples}

    def values_of_labels(self) -> dict[str, set[str]]:
        """Return the values of each label, over all metrics."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for metric in self.metrics.values():
            for sample in metric.samples:
                for label, value in sample.labels.items():
                    found[label].add(value)
        return found


def get(address: str, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    """Ask a supervisor; return the status and the body."""
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def scrape(address: str) -> Page:
    """Scrape a supervisor."""
    status, text = get(address)
    assert status == 200, text
    return Page(text)

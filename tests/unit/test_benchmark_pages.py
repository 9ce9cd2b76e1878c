"""The tables in docs/ that are made of the last report, and of a simulation."""

from benchmarks import balance, cluster_fold, pages
from benchmarks.measurement import Measurement
from benchmarks.report import Results


def test_the_simulation_is_that_of_the_page() -> None:
    page = (pages.ROOT / "docs" / "scaling.md").read_text()

    assert "\n".join(balance.table()) in page, "run `make figures`"


def test_a_page_gets_the_figures_of_the_report() -> None:
    rate = cluster_fold.RATE
    measured = [
        Measurement(cluster_fold.NAME, rate, subject, value, "1/s", run=1)
        for subject, value in ((cluster_fold.OURS, 16_000), (cluster_fold.REFERENCE, 20_000))
    ]
    results = Results(machine={}, measurements=measured, not_measured=[])

    limits = "\n".join(pages.limits(results))
    figures = "\n".join(pages.figures(results))

    assert "folds the whole stream | 16,000 | 8,000 | 173 million |" in limits
    assert "| one gateway; more of them share the load | not measured yet | | |" in limits
    assert "16,000 (16,000–16,000) 1/s | 0.80 (0.80–0.80) × from SQLite |" in figures


def test_only_what_is_between_the_marks_changes() -> None:
    text = "before\n<!-- a -->\nold\n<!-- -->\nbetween\n<!-- b -->\nother\n<!-- -->\nafter\n"

    assert pages.filled(text, "a", ["new", "lines"]) == text.replace("old", "new\nlines")

"""The benchmarks run and report. How fast anything is, is no test's business."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

pytestmark = pytest.mark.tools


def test_views_and_streams_are_measured_on_what_was_made_beforehand(tmp_path: Path) -> None:
    names = ["fold", "rebuild", "subscribe"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *names, "--quick", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "latest.json").read_text())
    assert {each["benchmark"] for each in results["measurements"]} == set(names)
    assert all(each["value"] > 0 for each in results["measurements"] if each["unit"] == "1/s")


def test_a_quick_run_reports_what_it_measured(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "end_to_end", "--quick", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "latest.json").read_text())
    assert {each["subject"] for each in results["measurements"]} == {
        "at a subscriber",
        "the acknowledgement alone",
    }
    assert all(each["value"] > 0 for each in results["measurements"])
    text = (tmp_path / "latest.md").read_text()
    assert "ratio to the acknowledgement alone" in text
    assert "goal: at a subscriber: p50 at 1,000/s ≤ 8" in text

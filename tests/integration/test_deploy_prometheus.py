"""The files for Prometheus, checked with its own tool."""

import subprocess

import pytest
from ruamel.yaml import YAML

from tests.support.prometheus import PROMTOOL, SHIPPED

pytestmark = [
    pytest.mark.tools,
    pytest.mark.timeout(600),  # hours and a week pass for promtool
    pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)"),
]


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "config", "cluster.yml"),
        ("check", "rules", "desk.rules.yml"),
        ("test", "rules", "desk.rules.test.yml", "desk.rules.week.test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_accepts(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [str(PROMTOOL), *arguments], cwd=SHIPPED, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested_when_it_fires_and_when_it_does_not() -> None:
    yaml = YAML(typ="safe")
    rules = yaml.load(SHIPPED / "desk.rules.yml")["groups"][0]["rules"]
    cases = [
        case
        for test in yaml.load(SHIPPED / "desk.rules.test.yml")["tests"]
        for case in test["alert_rule_test"]
    ]
    for expected in (True, False):
        tested = {case["alertname"] for case in cases if bool(case["exp_alerts"]) is expected}
        assert tested == {rule["alert"] for rule in rules}

"""A few schedules of faults on a cluster of real processes; `make chaos` runs more."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cluster import Cluster
from tests.chaos.schedule import FAULTS, draw
from tests.chaos.trial import Trial

pytestmark = [pytest.mark.tools, pytest.mark.timeout(1200)]

SEEDS = (1, 2)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


def test_a_cluster_keeps_its_promises_under_faults(cluster: Cluster) -> None:
    for seed in SEEDS:
        result = asyncio.run(Trial(cluster, draw(seed)).run())
        assert result.problems == [], f"make chaos CHAOS_SCHEDULES=1 CHAOS_SEED={seed}"
        assert result.figures["accepted"] > 0
        assert result.figures["records"] > 0


def test_a_seed_has_one_schedule_and_many_seeds_have_all_faults() -> None:
    assert draw(7) == draw(7)
    kinds = {fault.kind for seed in range(50) for fault in draw(seed).faults}
    assert kinds == {*FAULTS}

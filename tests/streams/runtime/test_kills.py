"""Application and broker killed again and again under load: the results are those of the batch computation."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.client.conftest import make_broker
from tests.streams.runtime.killing import Campaign

KILLS = 10


@pytest.mark.crash
@pytest.mark.parametrize("kind", ["ottla", pytest.param("kafka", marks=pytest.mark.kafka)])
def test_kills_leave_the_results_of_one_run(kind: str, tmp_path: Path) -> None:
    """Two instances; an instance or the broker is killed ten times, one to three seconds apart."""
    campaign = Campaign(make_broker(kind), tmp_path, seed=7)
    try:
        campaign.start()
        for _ in range(KILLS):
            time.sleep(campaign.dice.uniform(1, 3))
            campaign.kill_something()
        counts = campaign.settle(90)
        assert min(counts.values()) > 50
        assert sum(campaign.kills.values()) >= KILLS
    finally:
        campaign.close()

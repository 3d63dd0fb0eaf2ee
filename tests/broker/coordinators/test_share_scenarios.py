"""Transcripts about share groups, reviewed by eye. OTTLA_REWRITE=1 writes down what happens now: read the difference."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.broker.coordinators.scenario import play
from tests.broker.coordinators.share_scenario import ShareScenario, share_config

SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios" / "share").glob("*.txt"))


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 8


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    text = path.read_text()
    result = play(text, ShareScenario, share_config)
    if os.environ.get("OTTLA_REWRITE"):
        path.write_text(result)
    assert result == text

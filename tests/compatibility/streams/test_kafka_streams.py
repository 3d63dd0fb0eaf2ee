"""Kafka Streams (Java) with exactly_once_v2 against ottla, its instances and the broker killed at random.

OTTLA_STREAMS_KILLS sets how often (in each round; default 10), OTTLA_STREAMS_ROUNDS how many rounds of other seeds,
OTTLA_STREAMS_SEED the first one. `python -m tests.compatibility.streams.killing` keeps a journal, for long runs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.compatibility.streams.application import compile_application
from tests.compatibility.streams.killing import run_round
from tests.support import kafka_anchor

pytestmark = [pytest.mark.kafka, pytest.mark.crash]

KILLS = int(os.environ.get("OTTLA_STREAMS_KILLS", "10"))
ROUNDS = int(os.environ.get("OTTLA_STREAMS_ROUNDS", "1"))
SEED = int(os.environ.get("OTTLA_STREAMS_SEED", "1"))


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kafka_anchor.require()
    return compile_application(tmp_path_factory.mktemp("classes"))


@pytest.mark.parametrize("seed", range(SEED, SEED + ROUNDS))
def test_the_output_is_exact_whoever_is_killed(seed: int, classes: Path, tmp_path: Path) -> None:
    figures = run_round(seed=seed, kills=KILLS, protocol="classic", classes=classes, directory=tmp_path)
    print(f"\n{figures}")
    assert not figures.complaints, figures
    assert figures.kills.total() == KILLS

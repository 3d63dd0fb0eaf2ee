"""Whole-broker simulation: same seed, same trace; nothing acknowledged is lost, nothing is there twice.

A failure names its seed: `run_virtual(seed, lambda loop: run(loop, ...))` repeats it exactly.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from tests.simulation.workload import run
from tests.support.seeds import further_seeds, run_covering, run_seeds

from ottla.testing.virtual_loop import run_virtual

SECONDS = 4.0
EVENTS_MIN = 500

#: What must have happened at least once in the seeds of the default run, or they show nothing.
COVERAGE = (
    "acknowledged",
    "consumed",
    "generation",
    "kill",
    "kill in a write",
    "offset committed",
    "power cut",
    "produce repeated after a lost connection",
    "slow disk",
    "stop",
    "synced as a whole",
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Brokers that are killed complain; that is not what these tests are about."""
    logger = logging.getLogger("ottla")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


def story(seed: int, seconds: float = SECONDS) -> tuple[Counter[str], str]:
    """Run one seed; odd ones lose power as well as processes."""
    try:
        ledger, trace = run_virtual(seed, lambda loop: run(loop, cuts_power=seed % 2 == 1, seconds=seconds))
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
    return ledger.happened, trace


def run_seed(seed: int) -> Counter[str]:
    """Run one seed; what `tests.soak.seeds` calls."""
    return story(seed)[0]


def test_in_the_first_seeds_everything_happens() -> None:
    run_covering(sys.modules[__name__])


@pytest.mark.parametrize("seeds", further_seeds(), ids=str)
def test_nothing_acknowledged_is_lost_and_nothing_is_there_twice(seeds: range) -> None:
    run_seeds(sys.modules[__name__], seeds)


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_same_seed_same_trace(seed: int) -> None:
    assert story(seed, 3.0) == story(seed, 3.0)


def test_other_seed_other_trace() -> None:
    assert story(11, 3.0)[1] != story(12, 3.0)[1]

"""A whole cluster in virtual time: nothing acknowledged is lost, nothing is there twice, replicas hold the same bytes.

A failure names its seed: `run_seed(seed)` repeats it exactly.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from tests.replication.workload import run
from tests.support.seeds import run_covering

from ottla.testing.virtual_loop import run_virtual

#: Each is a second or two of a whole cluster; `make test-soak` has thousands.
SEEDS = 50
SECONDS = 20.0

#: What must have happened at least once in the seeds of the default run, or they show nothing.
COVERAGE = (
    "EIO at append",
    "ENOSPC at append",
    "ENOSPC at sync",
    "ISR expansions",
    "ISR shrinks",
    "NOT_ENOUGH_REPLICAS",
    "NOT_LEADER_OR_FOLLOWER",
    "acknowledged",
    "answer_lost",
    "consumed",
    "disk fails",
    "disk full",
    "frozen",
    "fsync finds no room",
    "isolated",
    "kill",
    "late_request",
    "link cut",
    "link cut one way",
    "log held by a thread",
    "power cut",
    "server cut off",
    "session expired",
    "some of several partitions refused",
    "stop",
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
    """Run one seed; odd ones lose power as well as processes, and sync before they acknowledge."""
    try:
        ledger, trace = run_virtual(seed, lambda loop: run(loop, cuts_power=seed % 2 == 1, seconds=seconds))
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
    return ledger.happened, trace


def run_seed(seed: int) -> Counter[str]:
    """Run one seed; what `tests.soak.seeds` calls."""
    return story(seed)[0]


def test_nothing_acknowledged_is_lost_and_everything_happens() -> None:
    run_covering(sys.modules[__name__], SEEDS)


@pytest.mark.parametrize("seed", [4, 5])
def test_same_seed_same_trace(seed: int) -> None:
    assert story(seed, 5.0) == story(seed, 5.0)

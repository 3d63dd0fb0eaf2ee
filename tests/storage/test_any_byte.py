"""One byte or one length of a file is changed: no readable record is lost, nothing else stops (see `any_byte`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from random import Random

import pytest
from tests.storage.any_byte import Change, Disk, Outcome, build, count, random_change, run

#: What cannot be told from a wish: a checkpoint has no checksum, and nothing else says where a log starts.
UNSEEN = "log-start-offset-checkpoint"


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("ottla")
    level = logger.level
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(level)


@pytest.fixture(scope="module")
def disk() -> Disk:
    return asyncio.run(build())


def check(disk: Disk, seed: int) -> tuple[Change, Outcome] | None:
    """Make one change; return it with what it led to, or None if it changed nothing."""
    random = Random(seed)
    change = random_change(disk, random)
    is_clean = random.random() < 0.6
    if change.length < 0 and disk.names[change.path][change.position :].startswith(change.data):
        return None
    outcome = run(disk, change, clean=is_clean)
    lost = [answer for answer in outcome.answers if not answer[3]]
    if not (change.path.endswith(UNSEEN) and all(answer[2] == "OFFSET_OUT_OF_RANGE" for answer in lost)):
        assert not lost, f"seed {seed}: {change}, clean={is_clean}: {lost}; {outcome.noticed}"
    return change, outcome


@pytest.mark.parametrize("first", range(0, 120, 20))
def test_any_change_costs_the_changed_record_only(disk: Disk, first: int) -> None:
    outcomes = [found for seed in range(first, first + 20) if (found := check(disk, seed)) is not None]
    assert sum(bool(outcome.noticed) for _, outcome in outcomes) > 5


@pytest.mark.soak
def test_five_thousand_changes_and_how_each_was_noticed(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [found for seed in range(100_000, 105_000) if (found := check(disk, seed)) is not None]
    table = count(outcomes)
    with capsys.disabled():
        print()
        for kind, row in sorted(table.items()):
            print(f"{kind:34} " + ", ".join(f"{row[what]} {what}" for what in sorted(row)))
    assert len(table) >= 10
    assert all(row["reported"] for row in table.values())

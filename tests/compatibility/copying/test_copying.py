"""Exactly-once copies with the Java client and with librdkafka, killed at random; long runs go on where they stopped."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from tests.compatibility.copying.killing import run_round, run_rounds
from tests.support import kafka_anchor

JOURNAL = Path(os.environ.get("OTTLA_COPIES_JOURNAL") or "build/copies.txt")
ROUNDS, KILLS = 5, 40


def test_a_copy_killed_at_random_is_exact() -> None:
    figures = run_round(seed=7, kills=8, client="confluent", protocol="classic")
    print(figures)
    assert figures.complaints == []


@pytest.mark.crash
@pytest.mark.parametrize("client", ["java", "confluent"])
def test_two_hundred_kills(client: str) -> None:
    if client == "java":
        kafka_anchor.require()
    lines = run_rounds(client, "classic", first=1, rounds=ROUNDS, kills=KILLS, journal=JOURNAL)
    print("", *lines, sep="\n")
    assert not any("WRONG" in line for line in lines)
    assert sum(int(match) for line in lines for match in re.findall(r": (\d+) kills", line)) >= ROUNDS * KILLS

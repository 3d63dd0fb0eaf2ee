"""The demo of the README: a part of the flights end to end, and what it says when something is missing."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from flights import Arrivals, Flight, Produced, read_flights, report
from tests.support.broker_process import RunningBroker

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "flights.py"


def test_a_thousand_flights_arrive_in_order_at_a_group_of_two(broker: RunningBroker) -> None:
    options = ["--bootstrap-server", broker.address, "--limit", "1000", "--speedup", "0"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1,000 of 1,000 flights" in done.stdout
    assert "0 flights out of order" in done.stdout
    assert "U.S. government" in done.stdout


def test_flights_are_read_in_time_order_with_their_legs_numbered() -> None:
    flights = read_flights(2_000)
    assert [flight.time_ms for flight in flights] == sorted(flight.time_ms for flight in flights)
    legs: Counter[str] = Counter()
    for flight in flights:
        legs[flight.aircraft] += 1
        assert flight.event["leg"] == legs[flight.aircraft]


def arrivals(number: int, count: int) -> Arrivals:
    return Arrivals(number, per_partition=Counter({number: count}), per_aircraft=Counter({f"N{number}": count}))


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        ([arrivals(0, 4), arrivals(1, 5)], "1 flights are missing"),
        ([arrivals(0, 6), arrivals(1, 5)], "flights came twice"),
        ([arrivals(0, 10), Arrivals(1)], "one consumer saw nothing"),
        ([arrivals(0, 5), Arrivals(1, Counter({1: 5}), out_of_order=1)], "the order was not kept"),
        ([arrivals(0, 5), Arrivals(1, Counter({1: 5}), error="broken")], "consumer 1: broken"),
    ],
)
def test_what_went_wrong_is_said_and_fails_the_demo(
    seen: list[Arrivals], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flights = [Flight(number, "N0", {}) for number in range(10)]
    produced = Produced(Counter({0: 5, 1: 5}), 1.0, Counter())
    assert not report(flights, produced, seen, 1.0)
    assert problem in capsys.readouterr().err

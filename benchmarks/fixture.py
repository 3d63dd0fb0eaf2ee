"""What a test with the fixture `kafka_broker` costs after the first one, beside the start of `ottla serve` alone.

    python benchmarks/fixture.py [--runs 20]

A test: a new broker, two records produced to it, waited for and read, the broker closed. Run by run in turn with a
process `ottla serve` from its start to its ready line. Medians and the slowest; the machine's load stands beside them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.report import median
from tests.support.broker_process import BrokerProcess

from ottla.testing import Broker


def test_ms() -> float:
    """One test."""
    began = time.perf_counter()
    with Broker() as broker:
        broker.produce("in", [b"1", b"2"])
        assert broker.topic("in").values(2) == [b"1", b"2"]
    return (time.perf_counter() - began) * 1000


def serve_ms() -> float:
    """One start of `ottla serve`."""
    with tempfile.TemporaryDirectory() as directory:
        broker = BrokerProcess(data_dir=Path(directory) / "data")
        began = time.perf_counter()
        broker.start()
        took = (time.perf_counter() - began) * 1000
        broker.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    first = test_ms()
    tests, serves = [], []
    for _ in range(options.runs):
        tests.append(test_ms())
        serves.append(serve_ms())
    print(f"load of the machine         {os.getloadavg()[0]:8.1f}")
    print(f"the first test              {first:8.1f} ms: codecs are built in it")
    print(f"a test after the first      {median(tests):8.1f} ms (slowest {max(tests):.1f})")
    print(f"ottla serve, until ready    {median(serves):8.1f} ms (slowest {max(serves):.1f})")
    print(f"ratio                       {median(tests) / median(serves):8.2f}x")


if __name__ == "__main__":
    main()

"""A broker that the tests of one module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.broker_process import BrokerProcess, RunningBroker


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    """A running ottla: use topics of your own."""
    running = BrokerProcess({"group.initial.rebalance.delay.ms": "0"})
    try:
        running.start()
        yield running
    finally:
        running.close()

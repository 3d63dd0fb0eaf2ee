"""Brokers for the tests with other people's clients.

The same tests run against Apache Kafka with OTTLA_TEST_BROKER=kafka: that is how they are kept honest, since what
Kafka does not do, they may not ask of ottla.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess, RunningBroker

QUICK_GROUPS = {"group.initial.rebalance.delay.ms": "0"}

BrokerFactory = Callable[..., RunningBroker]


def make_broker(settings: dict[str, str] | None = None) -> RunningBroker:
    merged = {**QUICK_GROUPS, **(settings or {})}
    if os.environ.get("OTTLA_TEST_BROKER") == "kafka":
        kafka_anchor.require()
        return kafka_anchor.KafkaProcess(merged)
    return BrokerProcess(merged)


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    """A running broker shared by the tests of one module: use topics and groups of your own."""
    running = make_broker()
    try:
        running.start()
        yield running
    finally:
        running.close()


@pytest.fixture
def private_broker() -> Iterator[RunningBroker]:
    """A running broker for one test that stops, kills or restarts it."""
    running = make_broker()
    try:
        running.start()
        yield running
    finally:
        running.close()

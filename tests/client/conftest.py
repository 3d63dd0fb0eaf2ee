"""Brokers for the tests of our client: ottla, and Apache Kafka where the `kafka` marker is chosen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess, RunningBroker

SETTINGS = {
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.heartbeat.interval.ms": "200",
    "group.consumer.min.heartbeat.interval.ms": "200",
}


def make_broker(kind: str, settings: dict[str, str] | None = None) -> RunningBroker:
    """Return a broker that is not started yet."""
    merged = {**SETTINGS, **(settings or {})}
    if kind == "kafka":
        kafka_anchor.require()
        return kafka_anchor.KafkaProcess(merged)
    return BrokerProcess(merged)


def start_patiently(broker: RunningBroker) -> None:
    """Start a broker on a machine that may have much else to do."""
    if isinstance(broker, BrokerProcess):
        broker.start(timeout_s=180)
    else:
        broker.start()


@pytest.fixture(scope="module", params=["ottla", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> Iterator[RunningBroker]:
    """A running broker shared by the tests of one module: use topics of your own."""
    running = make_broker(request.param)
    try:
        running.start()
        yield running
    finally:
        running.close()

"""The script's two transcripts, made once for all tests that look at them."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.compatibility.differential.compare import run_script
from tests.compatibility.differential.wire import Transcript
from tests.support.broker_process import BrokerProcess, RunningBroker
from tests.support.kafka_anchor import KafkaProcess, require

#: For both: groups that do not wait for more members or work beside, and no retention, which would take the records of 2023.
COMMON_SETTINGS = {
    "group.initial.rebalance.delay.ms": "0",
    "group.streams.initial.rebalance.delay.ms": "0",
    **{f"group.{kind}.assignment.interval.ms": "0" for kind in ("consumer", "share", "streams")},
    **{f"group.{kind}.assignor.offload.enable": "false" for kind in ("consumer", "share", "streams")},
    "log.initial.task.delay.ms": "3600000",
}

#: For ottla alone: what the anchor's start script sets, so that both show the same static configuration.
SETTINGS = {
    **COMMON_SETTINGS,
    "node.id": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
}


def transcript_of(name: str, broker: RunningBroker, only: Collection[str] = ()) -> Transcript:
    try:
        broker.start()
        return run_script(name, broker.port, only)
    finally:
        broker.close()


@pytest.fixture(scope="session")
def both_transcripts() -> tuple[Transcript, Transcript]:
    """(Apache Kafka's, ottla's), asked at the same time."""
    require()
    with ThreadPoolExecutor(2) as pool:
        reference = pool.submit(transcript_of, "Apache Kafka", KafkaProcess(COMMON_SETTINGS))
        candidate = pool.submit(transcript_of, "ottla", BrokerProcess(SETTINGS))
        return reference.result(), candidate.result()

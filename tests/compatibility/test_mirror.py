"""Apache Kafka copied to ottla and back, by ottla's mirrors; MirrorMaker 2's own client reads what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.client.java import run_java
from tests.connect.test_standalone import Running, until, worker_config
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess, RunningBroker
from tests.support.kafka_anchor import KafkaProcess

import ottla
from ottla import TopicPartition

pytestmark = pytest.mark.kafka

BYTES = "org.apache.kafka.connect.converters.ByteArrayConverter"
MIRRORS = "org.apache.kafka.connect.mirror.Mirror"
COUNT = 300
PROBE = """
import java.time.Duration;
import java.util.*;
import org.apache.kafka.connect.mirror.*;

public class Probe {
    public static void main(String[] given) throws Exception {
        Map<String, Object> target = new HashMap<>(Map.of("bootstrap.servers", given[0]));
        System.out.println("offsets " + new TreeMap<>(Map.of()) + RemoteClusterUtils.translateOffsets(
            target, given[1], given[2], Duration.ofSeconds(30)).entrySet().stream()
            .map(e -> e.getKey() + "=" + e.getValue().offset()).sorted().toList());
        System.out.println("upstream " + new TreeSet<>(RemoteClusterUtils.upstreamClusters(target)));
        System.out.println("heartbeats " + new TreeSet<>(RemoteClusterUtils.heartbeatTopics(target)));
        System.out.println("checkpoints " + new TreeSet<>(RemoteClusterUtils.checkpointTopics(target)));
    }
}
"""


@pytest.fixture
def clusters() -> Iterator[tuple[RunningBroker, RunningBroker]]:
    kafka_anchor.require()
    kafka, ours = KafkaProcess(), BrokerProcess()
    try:
        kafka.start()
        ours.start()
        yield kafka, ours
    finally:
        kafka.close()
        ours.close()


def mirror(source: RunningBroker, target: RunningBroker, alias: str, other: str) -> list[dict[str, str]]:
    """The three connectors of one direction."""
    common = {
        "source.cluster.alias": alias,
        "target.cluster.alias": other,
        "source.cluster.bootstrap.servers": source.address,
        "target.cluster.bootstrap.servers": target.address,
        "topics": "orders",
        "replication.factor": "1",
        "emit.checkpoints.interval.seconds": "1",
        **{f"{part}.converter": BYTES for part in ("key", "value", "header")},
    }
    return [
        {"name": f"{kind.lower()}-{alias}", "connector.class": f"{MIRRORS}{kind}Connector", **common}
        for kind in ("Source", "Checkpoint", "Heartbeat")
    ]


def records_of(servers: str, topic: str) -> list[Any]:
    with ottla.Consumer[Any, Any](servers, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(topic, number) for number in range(3)])
        return sorted(
            (r.partition, r.offset, r.key, r.value, r.headers.multi_items(), r.timestamp_ms) for r in consumer.records()
        )


@pytest.mark.parametrize("goes", ["to-ottla", "to-kafka"])
def test_topics_and_groups_arrive_and_kafkas_own_client_reads_it(
    clusters: tuple[RunningBroker, RunningBroker], tmp_path: Path, goes: str
) -> None:
    source, target = clusters if goes == "to-ottla" else clusters[::-1]
    with ottla.Admin(source.address) as admin, ottla.Producer[Any, Any](source.address) as producer:
        admin.create_topic("orders", partitions=3, configs={"retention.ms": "777000"})
        for number in range(COUNT):
            producer.send(
                "orders",
                str(number).encode(),
                key=str(number % 7).encode(),
                partition=number % 3,
                headers=[("n", b"\x01")],
            )
        producer.flush()
        admin.alter_group_offsets(
            "readers", {TopicPartition("orders", 0): COUNT // 3, TopicPartition("orders", 2): COUNT // 3}
        )
        config = worker_config(target, tmp_path) | {"plugin.modules": ""}
        with Running(config, *mirror(source, target, "A", "B")) as running, ottla.Admin(target.address) as there:
            until(
                lambda: "A.checkpoints.internal" in {t.name for t in there.list_topics(internal=True)},
                "the checkpoints",
            )
            until(lambda: len(records_of(target.address, "A.orders")) == COUNT, "all records")
            assert records_of(target.address, "A.orders") == records_of(source.address, "orders")
            assert there.describe_configs("topic", "A.orders")["retention.ms"].value == "777000"

            def is_translated() -> bool:
                said = run_java(_probe(tmp_path), target.address, "A", "readers")
                return f"A.orders-0={COUNT // 3}, A.orders-2={COUNT // 3}" in said

            until(is_translated, "the offsets")
            said = run_java(_probe(tmp_path), target.address, "A", "readers")
            assert "checkpoints [A.checkpoints.internal]" in said
            assert "heartbeats [heartbeats]" in said
            assert running.told("failed") == []


def _probe(folder: Path) -> Path:
    path = folder / "Probe.java"
    path.write_text(PROBE)
    return path

"""The cluster's own APIs, and producers as they are described: DescribeCluster to DescribeProducers."""

from __future__ import annotations

from tests.compatibility.differential.script import batch, create_topic, fill, versions
from tests.compatibility.differential.wire import Wire

from ottla.protocol.api import ApiKey
from ottla.protocol.messages import describe_producers, elect_leaders
from ottla.protocol.messages.describe_cluster import DescribeClusterRequest
from ottla.protocol.messages.describe_log_dirs import DescribableLogDirTopic, DescribeLogDirsRequest
from ottla.protocol.messages.describe_quorum import (
    DescribeQuorumRequest,
    DescribeQuorumRequestPartitionData,
    DescribeQuorumRequestTopicData,
)
from ottla.protocol.messages.init_producer_id import InitProducerIdRequest
from ottla.protocol.messages.list_partition_reassignments import (
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsTopics,
)


def describe_cluster(wire: Wire) -> None:
    for version in versions(ApiKey.DESCRIBE_CLUSTER):
        wire.ask("plain", DescribeClusterRequest(), version)
        wire.ask("authorized operations", DescribeClusterRequest(include_cluster_authorized_operations=True), version)
        if version >= 1:
            for kind in (2, 0, 9):
                wire.ask(f"endpoint type {kind}", DescribeClusterRequest(endpoint_type=kind), version)
        if version >= 2:
            wire.ask("fenced brokers", DescribeClusterRequest(include_fenced_brokers=True), version)


def describe_log_dirs(wire: Wire) -> None:
    topic_id = create_topic(wire, "cluster-dirs", 2)
    fill(wire, "cluster-dirs", topic_id, batch())
    for version in versions(ApiKey.DESCRIBE_LOG_DIRS):
        cases: dict[str, list[tuple[str, list[int]]]] = {
            "one partition": [("cluster-dirs", [0])],
            "two partitions": [("cluster-dirs", [0, 1])],
            "unknown topic": [("nowhere", [0])],
            "partition 9": [("cluster-dirs", [9])],
            "no partitions": [("cluster-dirs", [])],
            "nothing": [],
        }
        for label, rows in cases.items():
            topics = [DescribableLogDirTopic(topic=topic, partitions=indexes) for topic, indexes in rows]
            wire.ask(label, DescribeLogDirsRequest(topics=topics), version)
    wire.ask("everything", DescribeLogDirsRequest(topics=None), versions(ApiKey.DESCRIBE_LOG_DIRS)[-1])


def elections(wire: Wire) -> None:
    create_topic(wire, "cluster-elections", 2)
    for version in versions(ApiKey.ELECT_LEADERS):
        for kind in (0, 1, 7) if version >= 1 else (0,):
            cases: dict[str, list[tuple[str, list[int]]]] = {
                "two partitions": [("cluster-elections", [0, 1])],
                "unknown topic": [("nowhere", [0])],
                "partition 9": [("cluster-elections", [9])],
                "nothing": [],
            }
            for label, rows in cases.items():
                topics = [elect_leaders.TopicPartitions(topic=topic, partitions=indexes) for topic, indexes in rows]
                message = elect_leaders.ElectLeadersRequest(
                    election_type=kind, topic_partitions=topics, timeout_ms=5_000
                )
                wire.ask(f"type {kind}, {label}", message, version)
            everything = elect_leaders.ElectLeadersRequest(election_type=kind, topic_partitions=None, timeout_ms=5_000)
            wire.ask(f"type {kind}, everything", everything, version)


def reassignments(wire: Wire) -> None:
    create_topic(wire, "cluster-reassignments", 2)
    for label, topic, indexes in (
        ("none under way", "cluster-reassignments", [0, 1]),
        ("unknown topic", "nowhere", [0]),
        ("partition 9", "cluster-reassignments", [9]),
    ):
        rows = [ListPartitionReassignmentsTopics(name=topic, partition_indexes=indexes)]
        wire.ask(label, ListPartitionReassignmentsRequest(timeout_ms=5_000, topics=rows), 0)
    wire.ask("everything", ListPartitionReassignmentsRequest(timeout_ms=5_000, topics=None), 0)
    wire.ask("nothing", ListPartitionReassignmentsRequest(timeout_ms=5_000, topics=[]), 0)


def quorum(wire: Wire) -> None:
    for version in versions(ApiKey.DESCRIBE_QUORUM):
        for topic, partition in (("__cluster_metadata", 0), ("__cluster_metadata", 1), ("nowhere", 0)):
            row = DescribeQuorumRequestPartitionData(partition_index=partition)
            topics = [DescribeQuorumRequestTopicData(topic_name=topic, partitions=[row])]
            wire.ask(f"{topic}-{partition}", DescribeQuorumRequest(topics=topics), version)
        wire.ask("nothing", DescribeQuorumRequest(), version)


def producers(wire: Wire) -> None:
    topic_id = create_topic(wire, "cluster-producers", 2)
    for version in versions(ApiKey.INIT_PRODUCER_ID):
        wire.ask("idempotent", InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=60_000), version)
        wire.ask(
            "idempotent, no timeout", InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=0), version
        )
        wire.ask(
            "empty transactional id", InitProducerIdRequest(transactional_id="", transaction_timeout_ms=60_000), version
        )
        if version >= 3:
            for producer_id, epoch in ((1_000, 0), (1_000, -1), (-1, 5), (1_000, 32_767)):
                message = InitProducerIdRequest(
                    transactional_id=None, transaction_timeout_ms=60_000, producer_id=producer_id, producer_epoch=epoch
                )
                wire.ask(f"idempotent, with id {producer_id}, epoch {epoch}", message, version)
    producer = wire.ask(
        "one to be described", InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=-1), 4
    )
    data = batch(producer_id=producer.producer_id, producer_epoch=producer.producer_epoch, base_sequence=0)
    fill(wire, "cluster-producers", topic_id, data)
    cases = {
        "one": ("cluster-producers", [0]),
        "one and none": ("cluster-producers", [0, 1]),
        "partition 9": ("cluster-producers", [9]),
        "unknown topic": ("nowhere", [0]),
        "invalid topic": ("no/where", [0]),
    }
    for label, (topic, indexes) in cases.items():
        rows = [describe_producers.TopicRequest(name=topic, partition_indexes=indexes)]
        wire.ask(label, describe_producers.DescribeProducersRequest(topics=rows), 0)
    wire.ask("nothing", describe_producers.DescribeProducersRequest(), 0)


SCENARIOS = [describe_cluster, describe_log_dirs, elections, reassignments, quorum, producers]

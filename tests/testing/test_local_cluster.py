"""`ottla.testing.Cluster` and the fixture `kafka_cluster`: three brokers in this process."""

from __future__ import annotations

import threading
import uuid

from confluent_kafka import Producer as TheirProducer

import ottla
from ottla.testing import Cluster


def test_what_is_acknowledged_outlives_the_leader(kafka_cluster: Cluster) -> None:
    kafka_cluster.create_topic("orders", configs={"min.insync.replicas": "2"})
    described = kafka_cluster.admin.describe_topic("orders").partitions[0]
    assert sorted(described.replicas) == [1, 2, 3]
    with ottla.Producer(kafka_cluster.bootstrap_servers) as producer:
        for number in range(20):
            producer.send_and_wait("orders", b"%d" % number, timeout=30)
            if number == 10:
                killed = kafka_cluster.leader("orders")
                killed.kill()
    assert killed not in kafka_cluster.running
    assert kafka_cluster.leader("orders") is not killed
    assert kafka_cluster.topic("orders").values(20) == [b"%d" % number for number in range(20)]
    killed.start()
    with ottla.Consumer(
        kafka_cluster.bootstrap_servers,
        group_id=f"g-{uuid.uuid4().hex[:8]}",
        topics=["orders"],
        auto_offset_reset="earliest",
    ) as consumer:
        assert len(list(consumer.records(until="end"))) == 20


def test_other_peoples_clients_are_served_and_the_thread_ends() -> None:
    with Cluster() as cluster:
        assert [broker.broker_id for broker in cluster] == [1, 2, 3]
        topic = cluster.create_topic("in", partitions=3)
        theirs = TheirProducer({"bootstrap.servers": cluster.bootstrap_servers})
        for number in range(30):
            theirs.produce("in", b"%d" % number)
        assert theirs.flush(30) == 0
        assert len(topic.values(30)) == 30
        with cluster[2].fail("Fetch", error="NOT_LEADER_OR_FOLLOWER", times=2):
            cluster.produce("in", [b"30"])
            assert len(topic.values(31)) == 31
    assert not [thread for thread in threading.enumerate() if thread.name == "ottla-test-broker"]

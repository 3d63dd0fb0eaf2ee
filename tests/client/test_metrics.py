"""A consumer's metrics under Kafka's names, and metrics that clients push where a broker asks for them (KIP-714)."""

from __future__ import annotations

import asyncio
import math
import time
import urllib.request

import pytest
from tests.client.others import new_topic
from tests.client.test_groups import fill, member, new_group
from tests.support.broker_process import RunningBroker

import ottla
import ottla.aio
from ottla.testing import Broker
from ottla.testing.pytest_plugin import kafka_broker, kafka_broker_settings

__all__ = ["kafka_broker", "kafka_broker_settings"]


def test_a_consumers_metrics_have_kafkas_names(broker: RunningBroker) -> None:
    topic, group = new_topic(broker.address, 2), new_group()
    fill(broker.address, topic, 100)
    with member(broker, group, topic, client_id="meter") as consumer:
        assert math.isnan(consumer.metrics()["records-lag-max"])
        records = consumer.records()
        for _ in range(100):
            next(records)
        consumer.commit()
        metrics = consumer.metrics()
        assert metrics["records-consumed-total"] == 100
        assert metrics.by_topic[topic]["records-consumed-total"] == 100
        assert metrics["bytes-consumed-total"] == metrics.by_topic[topic]["bytes-consumed-total"] > 0
        assert metrics["records-lag-max"] == 0
        assert metrics["records-consumed-rate"] > 0
        assert (metrics["assigned-partitions"], metrics["rebalance-total"]) == (2, 1)
        assert metrics["commit-total"] >= 1
        assert metrics["fetch-total"] >= 1
        assert 0 < metrics["fetch-latency-avg"] <= metrics["fetch-latency-max"]
        assert 0 < metrics["fetch-size-max"] <= metrics["bytes-consumed-total"]
        assert sum(each["records-lead"] for each in metrics.by_partition.values()) == 100
        text = metrics.prometheus()
        assert 'kafka_consumer_records_consumed_total{client_id="meter"} 100' in text
        assert f'kafka_consumer_partition_records_lag{{client_id="meter",topic="{topic}",partition="0"}} 0.0' in text


def test_lag_is_what_is_ahead_of_the_position(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    fill(broker.address, topic, 50)
    with ottla.Consumer(broker.address, topics=[topic], auto_offset_reset="earliest") as consumer:
        for _ in range(20):
            next(consumer)
        where = ottla.TopicPartition(topic, 0)
        assert consumer.metrics().by_partition[where] == {"records-lag": 30, "records-lead": 20}
        assert consumer.metrics()["records-lag-max"] == 30 == consumer.consumer_lag(where)
        batch = next(consumer.batches())
        assert len(batch) == 30
        assert consumer.metrics()["records-consumed-total"] == 50


async def test_the_asynchronous_face_counts_too(kafka_broker: Broker) -> None:
    await asyncio.to_thread(kafka_broker.produce, "in", [b"1", b"2"])
    async with ottla.aio.Consumer(
        kafka_broker.bootstrap_servers, topics=["in"], auto_offset_reset="earliest"
    ) as consumer:
        assert len([record async for record in consumer.records()]) == 2
        assert consumer.metrics()["records-consumed-total"] == 2


def shown(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize("broker", ["ottla"], indirect=True)
def test_metrics_are_pushed_while_a_broker_asks_for_them_and_once_at_the_end(broker: RunningBroker) -> None:
    """1. the broker is told to ask; 2. a producer and a consumer push; 3. one that must not does not."""
    topic, group = new_topic(broker.address), new_group()
    with ottla.Admin(broker.address) as admin:
        admin.alter_configs(
            "client-metrics", "all", {"metrics": "org.apache.kafka.", "interval.ms": 100, "match": "client_id=push.*"}
        )
    fill(broker.address, topic, 10)
    with (
        ottla.Producer(broker.address, client_id="push-producer") as producer,
        ottla.Producer(broker.address, client_id="push-not", enable_metrics_push=False) as silent,
        member(broker, group, topic, client_id="push-consumer") as consumer,
    ):
        silent.send_and_wait(topic, b"x")
        producer.send_and_wait(topic, b"x")
        assert len(list(consumer.records())) == 12
        deadline = time.monotonic() + 30
        while True:
            text = shown(broker.address)
            if "kafka_client_producer_record_send_total" in text and "records_consumed_total" in text:
                break
            assert time.monotonic() < deadline, [line for line in text.splitlines() if "kafka_client" in line]
            producer.send_and_wait(topic, b"x")
    (line,) = [
        line
        for line in shown(broker.address).splitlines()
        if line.startswith("kafka_client_consumer_fetch_manager_records_consumed_total{") and "topic=" not in line
    ]
    assert 'client_id="push-consumer"' in line
    assert float(line.rpartition(" ")[2]) >= 12
    text = shown(broker.address)
    assert f'group_id="{group}"' in text
    assert "push-not" not in text


@pytest.mark.parametrize("broker", ["ottla"], indirect=True)
def test_share_consumers_and_admin_clients_push_theirs(broker: RunningBroker) -> None:
    """1. the broker is told to ask; 2. what each counted is shown, with the share group; 3. metrics() says the same."""
    topic, group = new_topic(broker.address), new_group()
    with ottla.Admin(broker.address) as admin:
        admin.alter_configs(
            "client-metrics", "other", {"metrics": "org.apache.kafka.", "interval.ms": 100, "match": "client_id=tell.*"}
        )
        admin.alter_configs("group", group, {"share.auto.offset.reset": "earliest"})
    fill(broker.address, topic, 10)
    wanted = (
        "kafka_client_consumer_share_fetch_manager_acknowledgements_send_total{",
        "kafka_client_consumer_share_fetch_manager_records_consumed_total{",
        "kafka_client_admin_client_request_total{",
    )
    with (
        ottla.Admin(broker.address, client_id="tell-admin") as admin,
        ottla.ShareConsumer(broker.address, group_id=group, topics=[topic], client_id="tell-worker") as worker,
    ):
        for number, _ in enumerate(worker, 1):
            if number == 10:
                break
        worker.poll(timeout=0)  # accepts the last one
        deadline = time.monotonic() + 30
        while not all(name in shown(broker.address) for name in wanted):
            assert time.monotonic() < deadline, [
                line for line in shown(broker.address).splitlines() if "kafka_client" in line
            ]
            admin.list_topics()
        admin.list_topics()
        admin.list_topics()
        assert worker.metrics()["records-consumed-total"] == 10
        assert (
            'kafka_consumer_share_records_consumed_total{client_id="tell-worker"} 10' in worker.metrics().prometheus()
        )
        metrics = admin.metrics()
        assert 2 <= metrics["response-total"] <= metrics["request-total"]
        assert 0 < metrics["request-latency-avg"] <= metrics["request-latency-max"]
        assert metrics["connection-creation-total"] >= 1
    text = shown(broker.address)
    lines = [line for line in text.splitlines() if line.startswith(wanted)]
    assert any('client_id="tell-admin"' in line for line in lines)
    (line,) = [line for line in lines if "records_consumed" in line]
    assert float(line.rpartition(" ")[2]) == 10
    (line,) = [line for line in text.splitlines() if line.startswith("kafka_client_info{") and "tell-worker" in line]
    assert f'group_id="{group}"' in line

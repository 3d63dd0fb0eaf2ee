"""`ottla cluster status`: what it says of a cluster, and of none."""

from __future__ import annotations

import json

import pytest
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port

from ottla.cli.cluster import main
from ottla.cli.cluster_status import status_of, table
from ottla.protocol.messages.describe_cluster import DescribeClusterBroker, DescribeClusterResponse
from ottla.protocol.messages.metadata import MetadataResponse, MetadataResponsePartition, MetadataResponseTopic


def partition(index: int, leader: int, replicas: list[int], isr: list[int]) -> MetadataResponsePartition:
    return MetadataResponsePartition(
        partition_index=index, leader_id=leader, leader_epoch=0, replica_nodes=replicas, isr_nodes=isr
    )


def test_what_is_wrong_is_named() -> None:
    cluster = DescribeClusterResponse(
        cluster_id="c",
        controller_id=2,
        brokers=[
            DescribeClusterBroker(broker_id=2, host="two", port=9092, rack="b"),
            DescribeClusterBroker(broker_id=1, host="one", port=9092),
        ],
    )
    topics = [
        MetadataResponseTopic(
            name="t",
            partitions=[partition(0, 1, [1, 2], [1]), partition(1, -1, [3], [3]), partition(2, 2, [2], [2])],
        )
    ]
    status = status_of(cluster, MetadataResponse(topics=topics))
    assert table(status) == [
        "cluster c: 2 brokers, 1 topics, 3 partitions",
        "",
        "broker          address   rack  leads  replicas  out of sync",
        "1               one:9092  -     1      1         0",
        "2 (controller)  two:9092  b     1      2         1",
        "",
        "away, and holding replicas: broker 3",
        "without a leader: t-1",
        "under-replicated: t-0, t-1",
    ]


def test_of_a_broker_that_runs_and_of_none(capsys: pytest.CaptureFixture[str]) -> None:
    with BrokerProcess() as broker:
        assert main(["status", "-b", broker.address, "--json"]) == 0
        status = json.loads(capsys.readouterr().out)
        assert [row["node_id"] for row in status["brokers"]] == [1]
        assert status["controller_id"] == 1
    nowhere = f"127.0.0.1:{free_port()}"
    assert main(["status", "-b", nowhere]) == 1
    assert f"Nothing listens on {nowhere}" in capsys.readouterr().err
    assert main(["status", "-b", "nonsense"]) == 2
    assert "--bootstrap-server must be HOST:PORT" in capsys.readouterr().err

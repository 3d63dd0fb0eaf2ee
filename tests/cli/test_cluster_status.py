"""`ottla cluster status`: what it says of a cluster, and of none."""

from __future__ import annotations

import json
import socket

import pytest
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port

from ottla.cli import cluster_status
from ottla.cli.cluster import main
from ottla.cli.cluster_status import status_of, table
from ottla.network import channel
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


def test_a_broker_that_has_just_died_is_no_healthy_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is registered until its session ends, and metadata says that it leads."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        live, dead = listening.getsockname()[1], free_port()
        brokers = [
            DescribeClusterBroker(broker_id=1, host="127.0.0.1", port=live),
            DescribeClusterBroker(broker_id=2, host="127.0.0.1", port=dead),
        ]
        topic = MetadataResponseTopic(name="t", partitions=[partition(0, 2, [1, 2], [1, 2])])
        answers = iter([DescribeClusterResponse(cluster_id="c", brokers=brokers), MetadataResponse(topics=[topic])])

        class Answering:
            async def ask(self, *_: object) -> object:
                return next(answers)

            def close(self) -> None:
                return None

            @classmethod
            async def open(cls, *_: object) -> Answering:
                return cls()

        monkeypatch.setattr(channel, "Channel", Answering)
        said: list[str] = []
        monkeypatch.setattr(cluster_status, "say", said.append)
        assert main(["status", "-b", f"127.0.0.1:{live}"]) == 1
        assert (
            f"broker 2 does not answer at 127.0.0.1:{dead}, and leads 1 partitions: it may have died, or cannot be "
            "reached from here" in said
        )


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

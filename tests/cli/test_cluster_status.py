"""`ottla cluster status`: what it says of a cluster, of one whose broker hangs, and of none."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

import pytest
from tests.cli.test_supervisor import SupervisorProcess, create, directory, supervised
from tests.support.ports import free_port

from ottla.cli.cluster import main
from ottla.cli.cluster_status import rows
from ottla.cli.cluster_view import BrokerView, ClusterView
from ottla.client.admin_results import PartitionDescription
from ottla.types import TopicPartition

__all__ = ["directory", "supervised"]


def partition(index: int, leader: int | None, replicas: tuple[int, ...], isr: tuple[int, ...]) -> PartitionDescription:
    return PartitionDescription(
        partition=index,
        leader=leader,
        leader_epoch=0,
        replicas=replicas,
        in_sync_replicas=isr,
        offline_replicas=(),
    )


def test_what_is_wrong_is_named() -> None:
    """Broker 3 is registered and has died, broker 4 is away."""
    parts = [
        partition(0, 1, (1, 2), (1,)),
        partition(1, None, (4,), (4,)),
        partition(2, 2, (2,), (2,)),
        partition(3, 3, (3, 2), (2, 3)),
    ]
    brokers = {n: BrokerView(id=n, address=f"b{n}:9092", rack=None) for n in (1, 2, 3)}
    brokers[3].error = "Nothing listens on b3:9092"
    view = ClusterView(
        cluster_id="c",
        controller=2,
        brokers=brokers,
        partitions={TopicPartition("t", part.partition): part for part in parts},
    )
    assert view.without_leader == ["t-1", "t-3"]
    assert view.under_replicated == ["t-0", "t-1", "t-3"]
    assert view.absent == [4]
    assert [row[3] for row in rows(view)] == ["up", "controller", "does not answer"]
    assert set(view.load().racks) == {1, 2}


def test_a_broker_that_hangs_is_told_from_one_that_serves(
    supervised: Callable[..., SupervisorProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port(neighbours=3)
    address = f"127.0.0.1:{port + 1}"
    workers = supervised("serve", "--workers", "2", "--port", str(port)).start()
    create(address, "t", 2)
    assert main(["status", "-b", address, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert [(row["node_id"], row["answers"], row["leads"]) for row in status["brokers"]] == [(1, True, 1), (2, True, 1)]
    pid = workers.brokers()[2]
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        assert main(["status", "-b", address]) == 1
    finally:
        os.kill(pid, signal.SIGCONT)
    told = capsys.readouterr().out
    assert "broker 2 does not answer" in told
    assert "without a leader: t-" in told


def test_of_no_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    assert main(["status", "-b", nowhere]) == 1
    assert nowhere in capsys.readouterr().err

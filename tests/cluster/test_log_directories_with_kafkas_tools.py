"""Kafka's own tool moves replicas between the log directories of a broker."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from tests.cli.test_supervisor import until
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess

from ottla import Admin

pytestmark = pytest.mark.kafka


@pytest.fixture
def directory() -> Iterator[Path]:
    kafka_anchor.require()
    with tempfile.TemporaryDirectory(prefix="ottla-jbod-") as made:
        yield Path(made)


def places(admin: Admin) -> dict[int, str]:
    return {
        tp.partition: found.path
        for found in admin.describe_log_dirs()[1]
        for tp, replica in found.replicas.items()
        if tp.topic == "t" and not replica.is_future
    }


def test_reassign_partitions_moves_replicas_to_another_directory(directory: Path) -> None:
    """1. --execute begins it. 2. --verify says that it is done, and takes the throttle away. 3. kafka-log-dirs shows it."""
    dirs = [str(directory / "1"), str(directory / "2")]
    with (
        BrokerProcess({"log.dirs": ",".join(dirs)}, data_dir=directory / "1") as broker,
        Admin(broker.address) as admin,
    ):
        admin.create_topic("t", partitions=2)
        producer = Producer({"bootstrap.servers": broker.address, "log_level": 0})
        for number in range(2_000):
            producer.produce("t", b"x" * 1_000, partition=number % 2)
        assert producer.flush(60) == 0
        plan = directory / "plan.json"
        target = dirs[1]
        rows = [{"topic": "t", "partition": p, "replicas": [1], "log_dirs": [target]} for p in (0, 1)]
        plan.write_text(json.dumps({"version": 1, "partitions": rows}))
        tool = (
            "kafka-reassign-partitions",
            "--bootstrap-server",
            broker.address,
            "--reassignment-json-file",
            str(plan),
        )
        begun = kafka_anchor.run_tool(
            *tool, "--execute", "--replica-alter-log-dirs-throttle", "100000000", timeout_s=180
        )
        assert begun.returncode == 0, begun.stdout
        assert "Successfully started" in begun.stdout, begun.stdout
        until(lambda: set(places(admin).values()) == {target}, 120)
        verified = kafka_anchor.run_tool(*tool, "--verify", timeout_s=180)
        assert "has been successfully moved" in verified.stdout or "completed successfully" in verified.stdout, (
            verified.stdout
        )
        shown = kafka_anchor.tool(
            "kafka-log-dirs", "--bootstrap-server", broker.address, "--describe", "--topic-list", "t", timeout_s=180
        )
        told = json.loads(next(line for line in shown.splitlines() if line.startswith("{")))
        found = {row["logDir"]: len(row["partitions"]) for row in told["brokers"][0]["logDirs"]}
        assert found == {dirs[0]: 0, target: 2}
        key = "replica.alter.log.dirs.io.max.bytes.per.second"
        assert all(
            entry.name != key or entry.source == "default" for entry in admin.describe_configs("broker", "1").values()
        )

"""Apache Kafka's command-line tools on three brokers of one machine."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.test_supervisor import SupervisorProcess
from tests.support import kafka_anchor
from tests.support.ports import free_port

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    kafka_anchor.require()
    directory, port = Path(tempfile.mkdtemp(prefix="ottla-up-")), free_port(neighbours=2)
    up = SupervisorProcess(directory, "cluster", "up", "--port", str(port), "-X", "group.initial.rebalance.delay.ms=0")
    try:
        up.start()
        yield f"127.0.0.1:{port}"
    finally:
        up.close()
        shutil.rmtree(directory, ignore_errors=True)


def run(address: str, name: str, *arguments: str, stdin: str | None = None) -> str:
    return kafka_anchor.tool(name, "--bootstrap-server", address, *arguments, stdin=stdin)


def test_topics_configs_and_groups(address: str) -> None:
    run(address, "kafka-topics", "--create", "--topic", "a", "--partitions", "6")
    described = run(address, "kafka-topics", "--describe", "--topic", "a")
    assert sorted(line.split("Leader: ")[1][0] for line in described.splitlines() if "Leader: " in line) == list(
        "112233"
    )
    run(address, "kafka-topics", "--alter", "--topic", "a", "--partitions", "9")
    assert "PartitionCount: 9" in run(address, "kafka-topics", "--describe", "--topic", "a")
    change = ("--alter", "--entity-type", "topics", "--entity-name", "a", "--add-config", "retention.ms=7200000")
    assert "Completed updating config for topic a" in run(address, "kafka-configs", *change)
    assert "retention.ms=7200000" in run(
        address, "kafka-configs", "--describe", "--entity-type", "topics", "--entity-name", "a"
    )
    for broker in ("1", "2", "3"):
        entity = ("--entity-type", "brokers", "--entity-name", broker)
        assert "Completed" in run(
            address, "kafka-configs", "--alter", *entity, "--add-config", "log.cleaner.backoff.ms=9000"
        )
        assert "log.cleaner.backoff.ms=9000" in run(address, "kafka-configs", "--describe", *entity)
    lines = "".join(f"{n}\n" for n in range(90))
    run(address, "kafka-console-producer", "--topic", "a", stdin=lines)
    read = run(
        address, "kafka-console-consumer", "--topic", "a", "--group", "g", "--from-beginning", "--max-messages", "90"
    )
    assert sorted(int(line) for line in read.splitlines() if line.isdecimal()) == list(range(90))
    assert "g" in run(address, "kafka-consumer-groups", "--list").split()
    # Of a partition from which nothing had come when it ended, the consumer may have committed nothing.
    rows = [line.split() for line in run(address, "kafka-consumer-groups", "--describe", "--group", "g").splitlines()]
    assert sum(int(row[3]) for row in rows if row[:2] == ["g", "a"]) == 90
    run(address, "kafka-topics", "--delete", "--topic", "a")
    assert "a" not in run(address, "kafka-topics", "--list").split()


def test_log_dirs_are_those_of_all_brokers(address: str) -> None:
    run(address, "kafka-topics", "--create", "--topic", "d", "--partitions", "3", "--replication-factor", "1")
    found = json.loads(run(address, "kafka-log-dirs", "--describe", "--topic-list", "d").splitlines()[-1])
    held = {
        broker["broker"]: [p["partition"] for directory in broker["logDirs"] for p in directory["partitions"]]
        for broker in found["brokers"]
    }
    assert sorted(held) == [1, 2, 3]
    assert all(len(partitions) == 1 for partitions in held.values())


def test_leader_election(address: str) -> None:
    run(address, "kafka-topics", "--create", "--topic", "e", "--partitions", "2")
    everything = run(address, "kafka-leader-election", "--election-type", "preferred", "--all-topic-partitions")
    assert "Error" not in everything
    one = ("--election-type", "preferred", "--topic", "e", "--partition", "0")
    assert "Valid replica already elected" in run(address, "kafka-leader-election", *one)


def test_reassign_partitions(address: str, tmp_path: Path) -> None:
    """A partition is moved to other brokers, with its records, and gets more replicas; what cannot be is said by the tool."""
    run(address, "kafka-topics", "--create", "--topic", "r", "--replica-assignment", "2")

    def reassign(replicas: list[int], *options: str) -> str:
        plan = {"version": 1, "partitions": [{"topic": "r", "partition": 0, "replicas": replicas}]}
        path = tmp_path / "plan.json"
        path.write_text(json.dumps(plan))
        return run(address, "kafka-reassign-partitions", "--reassignment-json-file", str(path), *options)

    assert "Successfully started partition reassignment for r-0" in reassign([2], "--execute")
    assert "Reassignment of partition r-0 is completed" in reassign([2], "--verify")
    assert "No partition reassignments found." in run(address, "kafka-reassign-partitions", "--list")
    assert "7" in reassign([7], "--execute")
    run(address, "kafka-console-producer", "--topic", "r", stdin="".join(f"{n}\n" for n in range(50)))
    for replicas in ([3], [1, 3], [2]):
        assert "Successfully started partition reassignment for r-0" in reassign(replicas, "--execute")
        deadline = time.monotonic() + 60
        while "Reassignment of partition r-0 is completed" not in reassign(replicas, "--verify"):
            assert time.monotonic() < deadline
        described = run(address, "kafka-topics", "--describe", "--topic", "r")
        assert f"Replicas: {','.join(map(str, replicas))}" in described
        assert f"Leader: {replicas[0]}" in described or f"Leader: {replicas[-1]}" in described
    read = run(address, "kafka-console-consumer", "--topic", "r", "--from-beginning", "--max-messages", "50")
    assert [int(line) for line in read.splitlines() if line.isdecimal()] == list(range(50))


def test_share_groups_and_transactions(address: str) -> None:
    run(address, "kafka-topics", "--create", "--topic", "s", "--partitions", "3")
    run(address, "kafka-configs", "--alter", "--entity-type", "groups", "--entity-name", "sg", "--add-config",
        "share.auto.offset.reset=earliest")  # fmt: skip
    run(address, "kafka-console-producer", "--topic", "s", stdin="".join(f"{n}\n" for n in range(30)))
    read = run(address, "kafka-console-share-consumer", "--topic", "s", "--group", "sg", "--max-messages", "30",
               "--timeout-ms", "60000")  # fmt: skip
    assert sorted(int(line) for line in read.splitlines() if line.isdecimal()) == list(range(30))
    described = run(address, "kafka-share-groups", "--describe", "--group", "sg", "--offsets")
    assert described.count(" s ") == 3
    arguments = (
        "--transactional-id",
        "perf",
        "--transaction-duration-ms",
        "200",
        "--topic",
        "s",
        "--num-records",
        "2000",
    )
    perf = kafka_anchor.tool(
        "kafka-producer-perf-test", *arguments, "--record-size", "100", "--throughput", "-1",
        "--bootstrap-server", address,
    )  # fmt: skip
    assert "2000 records sent" in perf
    listed = run(address, "kafka-transactions", "list")
    assert "perf" in listed
    assert "CompleteCommit" in listed

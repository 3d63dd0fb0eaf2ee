"""Apache Kafka's share consumer (KafkaShareConsumer) and its tools for share groups against ottla."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.compatibility.test_kafka_tools import create, produce_lines, run
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess
from tests.support.kafka_anchor import run_tool, tool

pytestmark = pytest.mark.kafka

#: A member is given partitions with its second heartbeat; sooner is better for tests.
QUICK = {
    "group.share.min.heartbeat.interval.ms": "500",
    "group.share.heartbeat.interval.ms": "500",
    "offsets.topic.num.partitions": "3",
    "share.coordinator.state.topic.num.partitions": "3",
}


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    kafka_anchor.require()
    with BrokerProcess(QUICK) as running:
        yield running


def from_the_start(broker: BrokerProcess, group: str) -> None:
    run(broker, "kafka-configs", "--alter", "--group", group, "--add-config", "share.auto.offset.reset=earliest")


def consume(broker: BrokerProcess, topic: str, group: str, count: int, *options: str) -> list[str]:
    """Return what kafka-console-share-consumer prints."""
    printed = run(
        broker, "kafka-console-share-consumer", "--topic", topic, "--group", group, "--max-messages", str(count),
        "--timeout-ms", "60000", *options, timeout_s=120,
    )  # fmt: skip
    return [line for line in printed.splitlines() if line and not line.startswith("Processed a total of")]


def lags(broker: BrokerProcess, group: str) -> dict[tuple[str, int], tuple[str, str]]:
    """Return start offset and lag of every partition as kafka-share-groups shows them."""
    described = run(broker, "kafka-share-groups", "--describe", "--group", group, "--offsets")
    rows = re.findall(rf"^{group}\s+(\S+)\s+(\d+)\s+(\S+)\s+(\S+)", described, re.MULTILINE)
    return {(topic, int(partition)): (start, lag) for topic, partition, start, lag in rows}


def test_console_share_consumer_and_share_groups(broker: BrokerProcess) -> None:
    create(broker, "jobs", 2)
    produce_lines(broker, "jobs", [str(number) for number in range(40)])
    from_the_start(broker, "workers")
    assert sorted(map(int, consume(broker, "jobs", "workers", 40))) == list(range(40))
    assert "workers" in run(broker, "kafka-share-groups", "--list").split()
    assert re.search(r"^workers\s+Empty", run(broker, "kafka-share-groups", "--list", "--state"), re.MULTILINE)
    assert sum(int(lag) for _, lag in lags(broker, "workers").values() if lag != "-") == 0
    state = run(broker, "kafka-share-groups", "--describe", "--group", "workers", "--state")
    assert re.search(r"^workers\s+\S+:\d+\s+\(1\)\s+Empty\s+0", state, re.MULTILINE), state
    assert "share" in run(broker, "kafka-groups", "--list", "--share")

    # What is released comes again; what is rejected does not.
    produce_lines(broker, "jobs", ["again"])
    assert consume(broker, "jobs", "workers", 1, "--release") == ["again"]
    assert consume(broker, "jobs", "workers", 1, "--reject") == ["again"]
    produce_lines(broker, "jobs", ["last"])
    assert consume(broker, "jobs", "workers", 1) == ["last"]

    # Back to the start, and to a point in time.
    reset = ("--reset-offsets", "--group", "workers", "--topic", "jobs", "--execute")
    shown = run(broker, "kafka-share-groups", *reset, "--to-earliest")
    assert shown.count("jobs") == 2, shown
    assert sum(int(lag) for _, lag in lags(broker, "workers").values()) == 42
    assert len(consume(broker, "jobs", "workers", 42)) == 42
    run(broker, "kafka-share-groups", *reset, "--to-latest")
    assert {lag for _, lag in lags(broker, "workers").values()} == {"0"}
    run(broker, "kafka-share-groups", *reset, "--to-datetime", "2020-01-01T00:00:00.000")
    assert {start for start, _ in lags(broker, "workers").values()} == {"0"}

    run(broker, "kafka-share-groups", "--delete-offsets", "--group", "workers", "--topic", "jobs")
    assert lags(broker, "workers") == {}
    assert "successful" in run(broker, "kafka-share-groups", "--delete", "--group", "workers")
    assert "workers" not in run(broker, "kafka-share-groups", "--list").split()
    unknown = run_tool("kafka-share-groups", "--bootstrap-server", broker.address, "--describe", "--group", "workers")
    assert "not found" in unknown.stdout


def test_group_configurations(broker: BrokerProcess) -> None:
    group = ("--entity-type", "groups", "--entity-name", "tuned")
    wanted = {
        "share.auto.offset.reset": "earliest",
        "share.isolation.level": "read_committed",
        "share.record.lock.duration.ms": "20000",
        "share.heartbeat.interval.ms": "5000",
        "share.session.timeout.ms": "50000",
        "share.delivery.count.limit": "3",
    }
    settings = ",".join(f"{key}={value}" for key, value in wanted.items())
    run(broker, "kafka-configs", *group, "--alter", "--add-config", settings)
    described = run(broker, "kafka-configs", *group, "--describe")
    for key, value in wanted.items():
        assert f"{key}={value}" in described
    wrong = ("--alter", "--add-config", "share.session.timeout.ms=90000")
    refused = run_tool("kafka-configs", "--bootstrap-server", broker.address, *group, *wrong)
    assert "group.share.max.session.timeout.ms" in refused.stdout


def test_verifiable_share_consumers_share_the_work(broker: BrokerProcess) -> None:
    create(broker, "verified", 1)
    run(broker, "kafka-verifiable-producer", "--topic", "verified", "--max-messages", "500")
    printed = run(
        broker, "kafka-verifiable-share-consumer", "--topic", "verified", "--group-id", "verifiers",
        "--max-messages", "500", "--offset-reset-strategy", "earliest", timeout_s=120,
    )  # fmt: skip
    events = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    acknowledged = [event for event in events if event["name"] == "offsets_acknowledged"]
    assert all(event["success"] for event in acknowledged), printed
    assert sum(event["count"] for event in acknowledged) >= 500
    assert sum(event["count"] for event in events if event["name"] == "records_consumed") >= 500


def test_perf_test(broker: BrokerProcess) -> None:
    create(broker, "fast", 2)
    run(
        broker, "kafka-producer-perf-test", "--topic", "fast", "--num-records", "20000", "--record-size", "100",
        "--throughput", "-1",
    )  # fmt: skip
    from_the_start(broker, "sprinters")
    printed = run(
        broker, "kafka-share-consumer-perf-test", "--topic", "fast", "--group", "sprinters", "--num-records", "20000",
        timeout_s=180,
    )  # fmt: skip
    header, *rows = [line.split(", ") for line in printed.splitlines() if line.count(", ") > 3]
    assert sum(int(row[header.index("data.consumed.in.nMsg")]) for row in rows) >= 20_000, printed


def test_kafkas_decoders_read_what_share_groups_leave_behind(tmp_path: Path) -> None:
    kafka_anchor.require()
    with BrokerProcess(QUICK, data_dir=tmp_path / "data") as broker:
        create(broker, "jobs", 2)
        produce_lines(broker, "jobs", [str(number) for number in range(30)])
        from_the_start(broker, "workers")
        assert len(consume(broker, "jobs", "workers", 30)) == 30
        run(broker, "kafka-share-groups", "--delete-offsets", "--group", "workers", "--topic", "jobs")
    kinds: dict[str, int] = {}
    for pattern, decoder in (
        ("__consumer_offsets-*", "--offsets-decoder"),
        ("__share_group_state-*", "--share-group-state-decoder"),
    ):
        for file in sorted((tmp_path / "data").glob(f"{pattern}/*.log")):
            dumped = tool("kafka-dump-log", "--files", str(file), decoder)
            assert "Failed" not in dumped
            for kind in re.findall(r'"type":"(\d+)"', dumped):
                kinds[f"{pattern[2]} {kind}"] = kinds.get(f"{pattern[2]} {kind}", 0) + 1
    # Share groups: 10 to 15; share state: snapshots and updates.
    assert {"c 10", "c 11", "c 12", "c 13", "c 14", "c 15", "s 0", "s 1"} <= set(kinds), kinds

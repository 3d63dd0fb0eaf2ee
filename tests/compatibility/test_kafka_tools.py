"""Apache Kafka's own command-line programs, and kcat, against ottla; and its dump-log over ottla's files."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess
from tests.support.kafka_anchor import run_tool, tool

pytestmark = pytest.mark.kafka

QUICK = {"group.initial.rebalance.delay.ms": "0"}


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    kafka_anchor.require()
    with BrokerProcess(QUICK) as running:
        yield running


def run(broker: BrokerProcess, name: str, *arguments: str, stdin: str | None = None, timeout_s: float = 90.0) -> str:
    """Run a tool against the broker and insist on exit code 0; its output."""
    done = run_tool(name, "--bootstrap-server", broker.address, *arguments, stdin=stdin, timeout_s=timeout_s)
    assert done.returncode == 0, f"{name} {' '.join(arguments)}: {done.returncode}\n{done.stdout}"
    return done.stdout


def create(broker: BrokerProcess, topic: str, partitions: int = 1, *options: str) -> None:
    run(broker, "kafka-topics", "--create", "--topic", topic, "--partitions", str(partitions), *options)


def produce_lines(broker: BrokerProcess, topic: str, lines: list[str], *options: str) -> None:
    run(broker, "kafka-console-producer", "--topic", topic, *options, stdin="\n".join(lines) + "\n")


def test_topics(broker: BrokerProcess) -> None:
    create(broker, "tools-topics", 3, "--replication-factor", "1", "--config", "retention.ms=600000")
    described = run(broker, "kafka-topics", "--describe", "--topic", "tools-topics")
    assert "PartitionCount: 3" in described
    assert "retention.ms=600000" in described
    assert described.count("Leader: ") == 3
    run(broker, "kafka-topics", "--alter", "--topic", "tools-topics", "--partitions", "5")
    assert "PartitionCount: 5" in run(broker, "kafka-topics", "--describe", "--topic", "tools-topics")
    assert "tools-topics" in run(broker, "kafka-topics", "--list").split()
    assert run(broker, "kafka-topics", "--describe", "--under-replicated-partitions").strip() == ""
    again = run_tool("kafka-topics", "--bootstrap-server", broker.address, "--create", "--topic", "tools-topics")
    assert again.returncode != 0
    assert "already exists" in again.stdout
    run(broker, "kafka-topics", "--delete", "--topic", "tools-topics")
    assert "tools-topics" not in run(broker, "kafka-topics", "--list").split()


def test_configs(broker: BrokerProcess) -> None:
    create(broker, "tools-configs")
    topic = ("--entity-type", "topics", "--entity-name", "tools-configs")
    run(
        broker,
        "kafka-configs",
        *topic,
        "--alter",
        "--add-config",
        "retention.ms=123000,cleanup.policy=[compact,delete]",
    )
    described = run(broker, "kafka-configs", *topic, "--describe")
    assert "retention.ms=123000" in described
    assert "cleanup.policy=compact,delete" in described
    assert "DYNAMIC_TOPIC_CONFIG:retention.ms=123000" in described
    run(broker, "kafka-configs", *topic, "--alter", "--delete-config", "retention.ms")
    assert "retention.ms=123000" not in run(broker, "kafka-configs", *topic, "--describe")
    everything = run(broker, "kafka-configs", *topic, "--describe", "--all")
    assert "segment.bytes=1073741824" in everything
    brokers = ("--entity-type", "brokers", "--entity-default")
    run(broker, "kafka-configs", *brokers, "--alter", "--add-config", "log.retention.ms=777000")
    assert "log.retention.ms=777000" in run(broker, "kafka-configs", *brokers, "--describe")
    assert "retention.ms=777000" in run(broker, "kafka-configs", *topic, "--describe", "--all")
    run(broker, "kafka-configs", *brokers, "--alter", "--delete-config", "log.retention.ms")
    wrong = run_tool(
        "kafka-configs", "--bootstrap-server", broker.address, *topic, "--alter", "--add-config", "retention.ms=soon"
    )
    assert "InvalidConfigurationException" in wrong.stdout


def test_console_producer_and_consumer(broker: BrokerProcess) -> None:
    create(broker, "tools-console", 2)
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        lines = [f"{codec}-{number}:value {number}" for number in range(20)]
        options = (
            "--compression-codec",
            codec,
            "--reader-property",
            "parse.key=true",
            "--reader-property",
            "key.separator=:",
        )
        produce_lines(broker, "tools-console", lines, *options)
    printed = run(
        broker, "kafka-console-consumer", "--topic", "tools-console", "--from-beginning", "--max-messages", "100",
        "--formatter-property", "print.key=true", "--formatter-property", "print.offset=true", "--timeout-ms", "20000",
    )  # fmt: skip
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        assert len(re.findall(rf"^Offset:\d+\t{codec}-\d+\tvalue \d+$", printed, re.MULTILINE)) == 20, printed


def test_consumer_groups(broker: BrokerProcess) -> None:
    create(broker, "tools-groups", 2)
    produce_lines(broker, "tools-groups", [str(number) for number in range(40)])
    group = ("--group", "tools-group")
    run(
        broker, "kafka-console-consumer", "--topic", "tools-groups", *group, "--from-beginning", "--max-messages", "40",
        "--timeout-ms", "20000",
    )  # fmt: skip
    described = run(broker, "kafka-consumer-groups", *group, "--describe")
    rows = re.findall(r"^tools-group\s+tools-groups\s+(\d)\s+(\d+)\s+(\d+)\s+(\d+)", described, re.MULTILINE)
    assert {row[0] for row in rows} == {"0", "1"}, described
    assert sum(int(row[1]) for row in rows) == 40
    assert all(row[3] == "0" for row in rows)
    assert "Empty" in run(broker, "kafka-consumer-groups", *group, "--describe", "--state")
    assert "tools-group" in run(broker, "kafka-consumer-groups", "--list").split()
    reset = ("--reset-offsets", "--topic", "tools-groups", "--execute")
    assert "NEW-OFFSET" in run(broker, "kafka-consumer-groups", *group, *reset, "--to-earliest")
    described = run(broker, "kafka-consumer-groups", *group, "--describe")
    assert len(re.findall(r"^tools-group\s+tools-groups\s+\d\s+0\s", described, re.MULTILINE)) == 2, described
    run(broker, "kafka-consumer-groups", *group, *reset, "--to-latest")
    run(broker, "kafka-consumer-groups", *group, *reset, "--shift-by", "-1")
    run(broker, "kafka-consumer-groups", *group, *reset, "--to-datetime", "2020-01-01T00:00:00.000")
    run(broker, "kafka-consumer-groups", *group, "--delete-offsets", "--topic", "tools-groups:0")
    described = run(broker, "kafka-consumer-groups", *group, "--describe")
    assert not re.search(r"^tools-group\s+tools-groups\s+0\s+\d", described, re.MULTILINE), described
    assert "successful" in run(broker, "kafka-consumer-groups", *group, "--delete")
    assert "tools-group" not in run(broker, "kafka-consumer-groups", "--list").split()


def test_get_offsets_and_delete_records(broker: BrokerProcess, tmp_path: Path) -> None:
    create(broker, "tools-offsets", 2)
    produce_lines(broker, "tools-offsets", [f"{number}:x" for number in range(30)])
    lines = run(broker, "kafka-get-offsets", "--topic", "tools-offsets").split()
    assert sum(int(line.rpartition(":")[2]) for line in lines) == 30
    assert sorted(run(broker, "kafka-get-offsets", "--topic", "tools-offsets", "--time", "earliest").split()) == [
        "tools-offsets:0:0",
        "tools-offsets:1:0",
    ]
    assert run(broker, "kafka-get-offsets", "--topic", "tools-offsets", "--time", "max-timestamp").strip()
    ends = {int(line.split(":")[1]): int(line.split(":")[2]) for line in lines}
    partition = max(ends, key=lambda index: ends[index])
    wish = {"partitions": [{"topic": "tools-offsets", "partition": partition, "offset": 1}], "version": 1}
    file = tmp_path / "records.json"
    file.write_text(json.dumps(wish))
    assert "low_watermark: 1" in run(broker, "kafka-delete-records", "--offset-json-file", str(file))
    earliest = run(broker, "kafka-get-offsets", "--topic-partitions", f"tools-offsets:{partition}", "--time", "-2")
    assert earliest.strip() == f"tools-offsets:{partition}:1"


def test_log_dirs(broker: BrokerProcess) -> None:
    create(broker, "tools-dirs", 2)
    printed = run(broker, "kafka-log-dirs", "--describe", "--topic-list", "tools-dirs")
    found = json.loads(printed.strip().splitlines()[-1])
    [directory] = found["brokers"][0]["logDirs"]
    assert directory["error"] is None
    assert {row["partition"] for row in directory["partitions"]} == {"tools-dirs-0", "tools-dirs-1"}


def test_broker_api_versions_cluster_features_and_quorum(broker: BrokerProcess) -> None:
    printed = run(broker, "kafka-broker-api-versions")
    assert re.search(r"Produce\(0\): 0 to 13", printed), printed
    assert "UNKNOWN" not in printed.replace("UNKNOWN(93)", "").replace("UNKNOWN(94)", "")
    cluster = tool("kafka-cluster", "cluster-id", "--bootstrap-server", broker.address)
    assert re.search(r"Cluster ID: \S{22}", cluster), cluster
    features = run_tool("kafka-features", "--bootstrap-server", broker.address, "describe")
    assert features.returncode == 0, features.stdout
    assert "Exception" not in features.stdout, features.stdout
    status = run(broker, "kafka-metadata-quorum", "describe", "--status")
    assert re.search(r"LeaderId:\s+\d+", status), status
    replication = run(broker, "kafka-metadata-quorum", "describe", "--replication")
    assert "Leader" in replication


def test_verifiable_producer_and_consumer(broker: BrokerProcess) -> None:
    create(broker, "tools-verifiable", 2)
    sent = run(
        broker, "kafka-verifiable-producer", "--topic", "tools-verifiable", "--max-messages", "500", "--acks", "-1",
        "--throughput", "-1",
    )  # fmt: skip
    events = [json.loads(line) for line in sent.splitlines() if line.startswith("{")]
    acked = {int(event["value"]) for event in events if event["name"] == "producer_send_success"}
    assert acked == set(range(500))
    read = run(
        broker, "kafka-verifiable-consumer", "--topic", "tools-verifiable", "--group-id", "tools-verifiable",
        "--max-messages", "500", "--verbose", "--reset-policy", "earliest",
    )  # fmt: skip
    events = [json.loads(line) for line in read.splitlines() if line.startswith("{")]
    seen = [int(event["value"]) for event in events if event["name"] == "record_data"]
    assert sorted(seen) == list(range(500))
    assert any(event["name"] == "offsets_committed" and event["success"] for event in events)


def test_perf_tests_and_end_to_end_latency(broker: BrokerProcess) -> None:
    create(broker, "tools-perf", 2)
    produced = run_tool(
        "kafka-producer-perf-test", "--topic", "tools-perf", "--num-records", "50000", "--record-size", "100",
        "--throughput", "-1", "--producer-props", f"bootstrap.servers={broker.address}", "acks=all",
    )  # fmt: skip
    assert re.search(r"^50000 records sent", produced.stdout, re.MULTILINE), produced.stdout
    consumed = run(
        broker, "kafka-consumer-perf-test", "--topic", "tools-perf", "--messages", "50000", "--timeout", "20000"
    )
    assert re.search(r", 50\d{3}, ", consumed), consumed
    latency = run_tool(
        "kafka-e2e-latency", "--bootstrap-server", broker.address, "--topic", "tools-latency", "--num-records", "300",
        "--producer-acks", "all", "--record-size", "100",
    )  # fmt: skip
    assert "Avg latency" in latency.stdout, latency.stdout
    assert "Percentiles" in latency.stdout, latency.stdout


def test_leader_election_and_reassignments_listed(broker: BrokerProcess) -> None:
    create(broker, "tools-election")
    one = ("--election-type", "preferred", "--topic", "tools-election", "--partition", "0")
    assert "Valid replica already elected" in run(broker, "kafka-leader-election", *one)
    assert "No partition reassignments found." in run(broker, "kafka-reassign-partitions", "--list")


@pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed (apt-get install kcat)")
def test_kcat(broker: BrokerProcess) -> None:
    def kcat(*arguments: str, stdin: str = "") -> str:
        command = ["kcat", "-b", broker.address, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    create(broker, "tools-kcat", 2)
    kcat("-P", "-t", "tools-kcat", "-p", "1", "-K:", "-z", "snappy", stdin="a:1\nb:2\nc:3\n")
    assert kcat("-C", "-t", "tools-kcat", "-e", "-q", "-f", "%p %o %k=%s\n") == "1 0 a=1\n1 1 b=2\n1 2 c=3\n"
    assert '"tools-kcat"' in kcat("-L", "-J")
    assert kcat("-Q", "-t", "tools-kcat:1:-1").strip() == "tools-kcat [1] offset 3"
    grouped = kcat("-G", "tools-kcat-group", "-e", "-q", "-X", "auto.offset.reset=earliest", "tools-kcat")
    assert sorted(grouped.split()) == ["1", "2", "3"]


def test_dump_log_finds_no_mismatch_after_load_compaction_deletes_and_a_crash(tmp_path: Path) -> None:
    """1. Load of every codec over small segments; 2. compaction, retention, DeleteRecords; 3. kill -9; 4. dump-log."""
    kafka_anchor.require()
    settings = {
        **QUICK,
        "log.cleaner.backoff.ms": "100",
        "log.retention.check.interval.ms": "300",
        "log.initial.task.delay.ms": "100",
        "log.cleaner.min.cleanable.ratio": "0.01",
        "log.segment.delete.delay.ms": "100",
        "log.index.interval.bytes": "200",
    }
    with BrokerProcess(settings, data_dir=tmp_path / "data") as broker:
        segments = ("--config", "segment.bytes=1048576")
        create(broker, "dump-plain", 2, *segments)
        create(broker, "dump-compact", 1, *segments, "--config", "cleanup.policy=compact")
        create(broker, "dump-short", 1, *segments, "--config", "retention.bytes=1500000")
        load(broker.address, 6)
        produce_lines(broker, "dump-plain", ["grouped"] * 50)
        run(broker, "kafka-console-consumer", "--topic", "dump-plain", "--group", "dump", "--from-beginning",
            "--max-messages", "50", "--timeout-ms", "20000")  # fmt: skip
        wish = {"partitions": [{"topic": "dump-plain", "partition": 0, "offset": 100}], "version": 1}
        (tmp_path / "records.json").write_text(json.dumps(wish))
        run(broker, "kafka-delete-records", "--offset-json-file", str(tmp_path / "records.json"))
        await_background_work(broker)
        load(broker.address, 1)
        broker.kill()
        broker.start()
        load(broker.address, 1)
        broker.kill()
        broker.start()
        broker.terminate()
        complaints, dumped = dump_everything(broker.data_dir)
    assert complaints == []
    assert {".log", ".index", ".timeindex", ".snapshot"} <= dumped


def load(address: str, rounds: int) -> None:
    """Idempotent producers of every codec: about a megabyte a round and partition."""
    dice = random.Random(rounds)
    for _ in range(rounds):
        for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
            producer = Producer(
                {"bootstrap.servers": address, "enable.idempotence": True, "compression.type": codec, "linger.ms": 5,
                 "batch.num.messages": 50, "log_level": 0}
            )  # fmt: skip
            for number in range(600):
                value = dice.randbytes(400)
                for topic in ("dump-plain", "dump-compact", "dump-short"):
                    producer.produce(topic, value if number % 7 else None, key=f"key {number % 40}")
                producer.poll(0)
            assert producer.flush(60) == 0


def await_background_work(broker: BrokerProcess) -> None:
    """Until the cleaner has compacted and retention has deleted something."""
    deadline = time.monotonic() + 60
    compacted, short = broker.data_dir / "dump-compact-0", broker.data_dir / "dump-short-0"
    while True:
        checkpoint = broker.data_dir / "cleaner-offset-checkpoint"
        cleaned = checkpoint.exists() and re.search(r"^dump-compact 0 [1-9]", checkpoint.read_text(), re.MULTILINE)
        first = min(path.stem for path in short.glob("*.log"))
        if cleaned and int(first) > 0 and not list(compacted.glob("*.swap")):
            return
        assert time.monotonic() < deadline, f"no compaction or retention: {first}\n{broker.output[-3000:]}"
        time.sleep(0.1)


def dump_everything(data_dir: Path) -> tuple[list[str], set[str]]:
    """Kafka's dump-log over every segment, index and snapshot; its complaints and the kinds of files it read."""
    complaints, dumped = [], set()
    for kind, options in {
        ".log": ["--deep-iteration"],
        ".index": ["--verify-index-only"],
        ".timeindex": [],
        ".txnindex": [],
        ".snapshot": [],
    }.items():
        files = sorted(path for path in data_dir.glob(f"*/*{kind}") if path.stat().st_size)
        for start in range(0, len(files), 40):
            some = files[start : start + 40]
            done = run_tool("kafka-dump-log", "--files", ",".join(map(str, some)), *options, timeout_s=180)
            dumped.add(kind)
            wrong = re.findall(
                r"^.*(?:mismatch|Mismatch|isvalid: false|non-consecutive|out of order|not found|Exception|Error|corrupt).*$",
                done.stdout,
                re.MULTILINE,
            )
            if done.returncode != 0:
                wrong.append(f"exit code {done.returncode} for {kind}: {done.stdout[-500:]}")
            complaints += [line for line in wrong if not is_a_gap_of_compaction(line, some)]
    return complaints, dumped


def is_a_gap_of_compaction(line: str, files: list[Path]) -> bool:
    """Compaction leaves gaps between offsets, which the deep iteration calls non-consecutive."""
    return "non-consecutive" in line and any("dump-compact" in str(path) or "__consumer" in str(path) for path in files)


def test_the_offsets_topic_is_read_by_kafkas_own_decoder(tmp_path: Path) -> None:
    kafka_anchor.require()
    with BrokerProcess(QUICK, data_dir=tmp_path / "data") as broker:
        create(broker, "decoded")
        produce_lines(broker, "decoded", ["a", "b", "c"])
        run(broker, "kafka-console-consumer", "--topic", "decoded", "--group", "decoded-group", "--from-beginning",
            "--max-messages", "3", "--timeout-ms", "20000")  # fmt: skip
        broker.terminate()
        files = [
            str(path) for path in sorted(broker.data_dir.glob("__consumer_offsets-*/*.log")) if path.stat().st_size
        ]
        printed = tool("kafka-dump-log", "--offsets-decoder", "--files", ",".join(files))
    assert '"group":"decoded-group"' in printed, printed
    assert '"protocolType":"consumer"' in printed
    assert '"offset":3' in printed

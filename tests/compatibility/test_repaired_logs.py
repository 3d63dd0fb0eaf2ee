"""`ottla log repair` and Apache Kafka: its tools read what was repaired, its broker serves its own log after that."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from tests.storage.damaged_log import check, copy_disk, make_log, names, random_edit, repair
from tests.storage.log_support import DIRECTORY, NOW
from tests.support import kafka_anchor
from tests.support.kafka_anchor import KafkaProcess, run_tool

from ottla.protocol.records.batch import read_header
from ottla.testing.memory_files import MemoryFiles

pytestmark = pytest.mark.kafka

SEEDS = range(24)
COMPLAINTS = re.compile(
    r"^.*(?:ismatch|isvalid: false|not found|out of order|Exception|Error|corrupt).*$", re.MULTILINE
)


@pytest.fixture(autouse=True)
def _needs_kafka() -> None:
    kafka_anchor.require()


def dump(files: list[Path], *options: str) -> str:
    """Run kafka-dump-log and insist on exit code 0 and no complaint."""
    done = run_tool("kafka-dump-log", "--files", ",".join(map(str, files)), *options, timeout_s=180)
    assert done.returncode == 0, done.stdout[-2000:]
    assert COMPLAINTS.findall(done.stdout) == []
    return done.stdout


def test_dump_log_accepts_what_was_repaired(tmp_path: Path) -> None:
    """Logs of formats 0, 1 and 2 with transactions, each damaged in one to three places by its seed."""
    original = MemoryFiles(lambda: NOW)
    make_log(original)
    damaged = 0
    for seed in SEEDS:
        dice = random.Random(seed)
        files = copy_disk(original)
        for name in dice.sample(names(files, ".log"), dice.randint(1, 3)):
            random_edit(dice, files, name).apply(files)
        damaged += bool(check(files))
        assert repair(files) == []
        directory = tmp_path / f"t-{seed}"
        directory.mkdir()
        for name in files.listdir(DIRECTORY):
            (directory / name).write_bytes(files.read_bytes(f"{DIRECTORY}/{name}"))
    assert damaged > len(SEEDS) // 2
    for kind, options in {".log": ["--deep-iteration"], ".index": ["--verify-index-only"], ".timeindex": []}.items():
        found = sorted(path for path in tmp_path.glob(f"*/*{kind}") if path.stat().st_size)
        printed = dump(found, *options)
        if kind == ".log":
            assert printed.count("isvalid: true") > 500
    for kind in (".txnindex", ".snapshot"):
        dump(sorted(path for path in tmp_path.glob(f"*/*{kind}") if path.stat().st_size))


def ottla(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ottla", "log", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def produce(address: str, numbers: range) -> None:
    producer = Producer({"bootstrap.servers": address, "transactional.id": f"from-{numbers.start}", "linger.ms": 0})
    producer.init_transactions(30)
    for number in numbers:
        producer.begin_transaction()
        producer.produce("t", b"%d" % number, partition=0)
        if number % 3:
            producer.commit_transaction(30)
        else:
            producer.flush(30)
            producer.abort_transaction(30)


def consume(address: str, last: bytes) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "g", "isolation.level": "read_committed"})
    consumer.assign([TopicPartition("t", 0, OFFSET_BEGINNING)])
    found: list[bytes] = []
    try:
        while not found or found[-1] != last:
            message = consumer.poll(30)
            assert message is not None, found
            assert message.error() is None, message.error()
            value = message.value()
            assert value is not None
            found.append(value)
        return found
    finally:
        consumer.close()


def batch_positions(data: bytes) -> Iterator[tuple[int, int, bool]]:
    """Yield (position, base offset, whether it is a marker) of each batch."""
    position = 0
    while position < len(data):
        header = read_header(data, position)
        yield position, header.base_offset, header.is_control
        position += header.size


def test_a_log_of_apache_kafka_is_repaired_and_its_broker_serves_it(tmp_path: Path) -> None:
    """1. Kafka writes and stops; 2. damage records and an abort marker; 3. repair; 4. Kafka serves all that is left."""
    kafka = KafkaProcess({"transaction.state.log.replication.factor": "1"}, data_dir=tmp_path / "kafka")
    try:
        kafka.start()
        produce(kafka.address, range(30))
        kafka.terminate()
        home = kafka.data_dir
        whole = ottla("check", str(home))
        assert whole.returncode == 0, whole.stdout + whole.stderr
        log = home / "t-0" / f"{0:020}.log"
        data = bytearray(log.read_bytes())
        batches = list(batch_positions(bytes(data)))
        records = [position for position, _, is_marker in batches if not is_marker]
        markers = [position for position, _, is_marker in batches if is_marker]
        assert (len(records), len(markers)) == (30, 30)
        data[records[7] + 62] ^= 0xFF  # a committed record
        data[markers[12] + 63] ^= 0xFF  # the end of an aborted one
        data[records[20] + 8 : records[20] + 12] = b"\0\0\0\1"
        log.write_bytes(data)
        told = ottla("check", str(home))
        assert told.returncode == 1
        assert told.stdout.count("t-0 00000000000000000000.log, bytes") == 3
        done = ottla("repair", "t-0", "--data-dir", str(home), "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        dump([log], "--deep-iteration")
        [copy] = home.glob("t-0.*-stray")
        kept = (copy / log.name).read_bytes()
        assert kept == bytes(data)
        kafka.start()
        expected = [b"%d" % number for number in range(30) if number % 3 and number not in (7, 20)]
        assert consume(kafka.address, b"29") == expected
        produce(kafka.address, range(100, 102))
        assert consume(kafka.address, b"101") == [*expected, b"100", b"101"]
        kafka.terminate()
        assert (copy / log.name).read_bytes() == kept
        assert ottla("check", str(home / "t-0")).returncode == 0
        assert os.listdir(home / "t-0")
    finally:
        kafka.close()

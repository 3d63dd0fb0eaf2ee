"""Kafka Connect: a file into a topic and the topic into another file, standalone and distributed; worker and broker killed.

The workers are Apache Kafka's own. A worker that was killed repeats what it had not noted, and its sink may leave half a line
behind. Therefore each line has brackets, and of lines that come again the first counts. Distributed, the source is
exactly-once: the topic's committed records are the lines, none twice.
"""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from tests.compatibility.bigdata.jobs import Job
from tests.compatibility.bigdata.killing import BROKER_SETTINGS
from tests.compatibility.test_confluent import create_topic
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess, RunningBroker
from tests.support.ports import free_port

pytestmark = pytest.mark.bigdata

TOPIC = "lines"
LINES = 500
#: What is killed after each portion of lines.
KILLS = ("", "worker", "broker", "worker", "broker and worker", "broker", "")
PATIENCE_S = 180.0
LINE = re.compile(r"<\d{6} [a-z]+>")
FILES = "org.apache.kafka.connect.file.FileStream"
JVM = {"KAFKA_HEAP": "-Xmx256m -XX:TieredStopAtLevel=1"}

COMMON = {
    "key.converter": "org.apache.kafka.connect.storage.StringConverter",
    "value.converter": "org.apache.kafka.connect.storage.StringConverter",
    "consumer.isolation.level": "read_committed",
    "offset.flush.interval.ms": "500",
}
#: One broker holds one replica. A worker that was killed gets its work back at once.
DISTRIBUTED = {
    "group.id": "workers",
    "config.storage.topic": "connect-configs",
    "offset.storage.topic": "connect-offsets",
    "status.storage.topic": "connect-status",
    "config.storage.replication.factor": "1",
    "offset.storage.replication.factor": "1",
    "status.storage.replication.factor": "1",
    "offset.storage.partitions": "2",
    "status.storage.partitions": "2",
    "exactly.once.source.support": "enabled",
    "scheduled.rebalance.max.delay.ms": "0",
    "session.timeout.ms": "6000",
    "heartbeat.interval.ms": "2000",
    "rest.advertised.host.name": "127.0.0.1",
}


class Files:
    """The file that is read, the file that is written."""

    def __init__(self, directory: Path) -> None:
        self.source = directory / "source.txt"
        self.sink = directory / "sink.txt"
        self.lines: list[str] = []
        self.source.touch()

    def append(self, count: int) -> None:
        new = [f"<{len(self.lines) + number:06d} {'abcdefghij'[number % 10] * 40}>" for number in range(count)]
        self.lines += new
        with self.source.open("a") as file:
            file.write("".join(f"{line}\n" for line in new))

    def written(self) -> list[str]:
        """The lines of the sink, whole ones, in order."""
        return LINE.findall(self.sink.read_text()) if self.sink.exists() else []

    def connectors(self) -> dict[str, dict[str, str]]:
        return {
            "source": {"connector.class": f"{FILES}SourceConnector", "file": str(self.source), "topic": TOPIC},
            "sink": {"connector.class": f"{FILES}SinkConnector", "file": str(self.sink), "topics": TOPIC},
        }


def test_standalone(tmp_path: Path) -> None:
    kafka_anchor.require()
    files = Files(tmp_path)
    with BrokerProcess(BROKER_SETTINGS) as broker:
        create_topic(broker, TOPIC)
        worker = {"offset.storage.file.filename": str(tmp_path / "offsets"), **listening(free_port())}
        command = [str(kafka_anchor.ANCHOR / "tool"), "connect-standalone"]
        command.append(properties(tmp_path / "worker", {"bootstrap.servers": broker.address, **COMMON, **worker}))
        for name, config in files.connectors().items():
            command.append(properties(tmp_path / name, {"name": name, "tasks.max": "1", **config}))
        job = Job(lambda: command, tmp_path / "worker.log", JVM)
        run_round(broker, job, files, lambda: None)
        records = committed(broker)
    report("standalone", files, records, job)
    assert first_of_each(records) == files.lines
    assert first_of_each(files.written()) == files.lines


def test_distributed_with_an_exactly_once_source(tmp_path: Path) -> None:
    kafka_anchor.require()
    files = Files(tmp_path)
    port = free_port()
    with BrokerProcess(BROKER_SETTINGS) as broker:
        create_topic(broker, TOPIC)
        worker = {"bootstrap.servers": broker.address, **COMMON, **DISTRIBUTED, **listening(port)}
        command = [
            str(kafka_anchor.ANCHOR / "tool"),
            "connect-distributed",
            properties(tmp_path / "worker", worker),
        ]
        job = Job(lambda: command, tmp_path / "worker.log", JVM)
        connectors = files.connectors()
        connectors["source"]["exactly.once.support"] = "required"

        def make_connectors() -> None:
            for name, config in connectors.items():
                put_connector(port, name, {"tasks.max": "1", **config}, job)

        run_round(broker, job, files, make_connectors)
        records = committed(broker)
    report("distributed", files, records, job)
    assert records == files.lines
    assert first_of_each(files.written()) == files.lines


def run_round(broker: RunningBroker, job: Job, files: Files, prepare: Callable[[], None]) -> None:
    """Append lines, kill as `KILLS` says once some of them have arrived, and wait until all have."""
    with job:
        prepare()
        for victims in KILLS:
            files.append(LINES)
            if victims:
                wanted = len(files.lines) - LINES + 1
                wait_until(lambda wanted=wanted: len(set(files.written())) >= wanted, job)  # type: ignore[misc]
            if "worker" in victims:
                job.kill()
            if "broker" in victims:
                broker.kill()
                broker.start()
            if "worker" in victims:
                job.start()
        wait_until(lambda: set(files.written()) >= set(files.lines), job)


def wait_until(reached: Callable[[], bool], job: Job) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        job.restart_if_it_gave_up()
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing for {PATIENCE_S:.0f} s:\n{job.tail()}")
        time.sleep(0.1)


def listening(port: int) -> dict[str, str]:
    return {"listeners": f"http://127.0.0.1:{port}"}


def properties(path: Path, settings: Mapping[str, str]) -> str:
    """Write a properties file; its path."""
    path.with_suffix(".properties").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    return str(path.with_suffix(".properties"))


def put_connector(port: int, name: str, config: Mapping[str, str], job: Job) -> None:
    """Make a connector by the worker's REST interface, as soon as it answers."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/connectors/{name}/config",
        data=json.dumps(config).encode(),
        headers={"Content-Type": "application/json"},
        method="PUT",
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            opener.open(request, timeout=30).close()
            return
        except urllib.error.HTTPError as error:  # 409 and 500 while the worker joins its group
            answer = f"{error.code} {error.read().decode(errors='replace')}"
            error.close()
        except OSError as error:
            answer = str(error)
        if time.monotonic() > deadline:
            raise TimeoutError(f"connector {name}: {answer}\n{job.tail()}")
        time.sleep(0.2)


def committed(broker: RunningBroker) -> list[str]:
    """The committed records of the topic, from its first to its last."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.address,
            "group.id": "verdict",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    records: list[str] = []
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error() is not None:
            consumer.close()
            return records
        records.append((message.value() or b"").decode())
    raise TimeoutError(f"no end of the topic after {len(records)} records")


def first_of_each(lines: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(lines))


def report(mode: str, files: Files, records: list[str], job: Job) -> None:
    print(
        f"\nConnect {mode}: {len(files.lines)} lines, {len(records)} records in the topic, {len(files.written())} lines "
        f"written; the worker ended by itself {job.gave_up} times"
    )

"""Message formats 0 and 1 in the directory of an older Kafka are served as Apache Kafka 4.3 serves them.

Apache Kafka 3.9 on ZooKeeper writes topics in formats 0, 1 and 2, and mixed; others are written byte by byte. The files go
into the folders of topics of the same names that a stopped Apache Kafka 4.3 made (it does not open the old directory). Then
Kafka 4.3 and ottla each open a copy: every record, look-ups by time, and committed offsets must be the same, after a clean
and an unclean stop, before and after compaction.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from tests.compatibility.old_format_topics import (
    COMPACTED,
    GROUP_COUNT,
    OLD_TOPICS,
    Served,
    checkpoint,
    committed,
    create_topic,
    made_by_hand,
    read_all,
    set_config,
    wait_until,
    write_with,
)
from tests.support import kafka_anchor, old_kafka
from tests.support.broker_process import BrokerProcess, RunningBroker
from tests.support.kafka_anchor import KafkaProcess
from tests.support.old_kafka import OldKafka

pytestmark = pytest.mark.kafka

SETTINGS = {
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "log.cleaner.backoff.ms": "200",
    "log.retention.ms": "-1",
    "offsets.retention.minutes": "2147483647",
    "offsets.topic.num.partitions": "5",
}
HAND_MADE = made_by_hand()
TOPICS = [*OLD_TOPICS, *HAND_MADE]
#: Topics that begin with whole segments of format 0, which has no times.
WITHOUT_TIMES = ("mixed-rolled", "mixed-compacted")
#: Of a partition's folder: what belongs to the records, not to the topic.
RECORD_FILES = ("*.log", "*.index", "*.timeindex", "*.txnindex", "*.snapshot", "leader-epoch-checkpoint")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of Apache Kafka 4.3, cleanly stopped, with the old files in it."""
    kafka_anchor.require()
    old_kafka.require()
    path = tmp_path_factory.mktemp("kafka")
    old = OldKafka({key: value for key, value in SETTINGS.items() if key != "log.retention.ms"})
    new = KafkaProcess(SETTINGS, data_dir=path)
    try:
        old.start()
        write_with(old)
        old.stop()
        new.start()
        admin = AdminClient({"bootstrap.servers": new.address, "log_level": 0})
        for topic in TOPICS:
            create_topic(admin, topic)
        consumer = Consumer({"bootstrap.servers": new.address, "log_level": 0, "group.id": "x"})
        consumer.commit(offsets=[TopicPartition("mixed", 0, 1)], asynchronous=False)  # makes __consumer_offsets
        consumer.close()
        new.terminate()
        offsets = [f"__consumer_offsets-{index}" for index in range(5)]
        for name in [*(f"{topic}-0" for topic in OLD_TOPICS), *offsets]:
            replace_records(old.data_dir / name, new.data_dir / name)
    finally:
        old.close()
        new.close()
    for topic, segments in HAND_MADE.items():
        folder = new.data_dir / f"{topic}-0"
        replace_records(None, folder)
        for base_offset, data in segments.items():
            (folder / f"{base_offset:020}.log").write_bytes(data)
    return path


def replace_records(source: Path | None, target: Path) -> None:
    for pattern in RECORD_FILES:
        for path in target.glob(pattern):
            path.unlink()
        for path in source.glob(pattern) if source else ():
            shutil.copy2(path, target)


def copy_of(directory: Path, target: Path, *, clean: bool) -> Path:
    shutil.copytree(directory, target)
    if not clean:
        # As after a crash at the worst moment: no segment counts as written.
        (target / "log" / ".kafka_cleanshutdown").unlink()
        (target / "log" / "recovery-point-offset-checkpoint").unlink()
    return target


def compact(broker: RunningBroker) -> None:
    """Have the broker clean `COMPACTED`, and wait for it."""
    admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 0})
    for topic in COMPACTED:
        set_config(admin, topic, {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.001"})
    for topic in COMPACTED:
        active = max(int(path.stem) for path in (broker.data_dir / f"{topic}-0").glob("*.log"))
        assert active > 0, f"{topic} has one segment, which is never cleaned"
        wait_until(lambda: f"{topic} 0 {active}\n" in checkpoint(broker.data_dir), f"{topic} is not cleaned")  # noqa: B023


@pytest.fixture(scope="module")
def kafka(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Served]]:
    """What Apache Kafka 4.3 serves: "clean", "unclean", and "compacted"."""
    found = {}
    for state in ("unclean", "clean"):
        path = copy_of(directory, tmp_path_factory.mktemp("kafka43") / state, clean=state == "clean")
        broker = KafkaProcess(SETTINGS, data_dir=path)
        try:
            broker.start()
            found[state] = read_all(broker.address, TOPICS)
            if state == "clean":
                assert committed(broker.address) == COMMITTED
                compact(broker)
                found["compacted"] = read_all(broker.address, COMPACTED)
        finally:
            broker.close()
    return found


#: What the groups committed last.
COMMITTED = {f"g{number}": (number * 10 + 2, f"by g{number}") for number in range(GROUP_COUNT)}


@pytest.fixture
def ottla(directory: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[BrokerProcess]:
    """A broker on a copy of the directory; the parameter says how the directory was left."""
    path = copy_of(directory, tmp_path / "copy", clean=request.param == "clean")
    broker = BrokerProcess({**SETTINGS, "ottla.foreign.confirm": "true"}, data_dir=path / "log")
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


def assert_same(ours: dict[str, Served], theirs: dict[str, Served], *, of_kafka: bool = False) -> None:
    """Compare topic by topic, field by field: what differs is short enough to read."""
    differences = []
    for topic, expected in theirs.items():
        got = ours[topic]
        if topic in WITHOUT_TIMES:
            # Kafka takes the time of the file for that of a segment without times, finds nothing in it, and answers -1
            # for whatever comes later. We look on.
            truth = found_by_time(expected)
            assert all(offset in (-1, truth[time]) for time, offset in expected.by_time.items())
            if not of_kafka:
                expected = expected._replace(by_time=truth)
            elif got.by_time != expected.by_time:
                got = got._replace(by_time=expected.by_time)  # the time of the file is another now
        for field, want in expected._asdict().items():
            if (found := getattr(got, field)) != want:
                differences.append(f"{topic}: {field}: {str(found)[:500]} instead of {str(want)[:500]}")
    assert not differences, "\n".join(differences)


def found_by_time(served: Served) -> dict[int, int]:
    """Return the offset of the first record that is not older, for every time that was asked for."""
    return {
        time: next((offset for offset, timestamp, *_ in served.records if timestamp >= time), -1)
        for time in served.by_time
    }


def test_the_directory_holds_what_it_should(kafka: dict[str, dict[str, Served]]) -> None:
    for topic, wanted in OLD_TOPICS.items():
        if topic != "cleaned-before":
            assert len(kafka["clean"][topic].records) == sum(phase.record_count for phase in wanted.phases)
    assert_same(kafka["unclean"], kafka["clean"], of_kafka=True)
    for topic in WITHOUT_TIMES:
        served = kafka["clean"][topic]
        assert served.by_time != found_by_time(served), f"{topic}: Kafka finds offsets by time now"
    for topic in ("mixed-compacted", "hand-compacted"):
        assert len(kafka["compacted"][topic].records) < len(kafka["clean"][topic].records)


@pytest.mark.parametrize("ottla", ["clean", "unclean"], indirect=True)
def test_everything_is_served_as_by_kafka(ottla: BrokerProcess, kafka: dict[str, dict[str, Served]]) -> None:
    assert_same(read_all(ottla.address, TOPICS), kafka["clean"])
    assert committed(ottla.address) == COMMITTED
    ottla.terminate()
    ottla.start()
    assert_same(read_all(ottla.address, TOPICS), kafka["clean"])
    ottla.kill()
    ottla.start()
    assert_same(read_all(ottla.address, TOPICS), kafka["clean"])


@pytest.mark.parametrize("ottla", ["clean", "unclean"], indirect=True)
def test_compaction_keeps_what_kafkas_keeps_and_kafka_reads_it(
    ottla: BrokerProcess, kafka: dict[str, dict[str, Served]]
) -> None:
    compact(ottla)
    assert_same(read_all(ottla.address, COMPACTED), kafka["compacted"])
    ottla.kill()
    ottla.start()
    assert_same(read_all(ottla.address, COMPACTED), kafka["compacted"])
    others = {topic: served for topic, served in kafka["clean"].items() if topic not in COMPACTED}
    assert_same(read_all(ottla.address, others), others)
    ottla.terminate()
    assert ottla.returncode == 0
    again = KafkaProcess(SETTINGS, data_dir=ottla.data_dir.parent)
    try:
        again.start()
        assert_same(read_all(again.address, COMPACTED), kafka["compacted"], of_kafka=True)
    finally:
        again.close()


@pytest.mark.parametrize("ottla", ["clean"], indirect=True)
def test_the_java_consumer_reads_the_same(ottla: BrokerProcess, kafka: dict[str, dict[str, Served]]) -> None:
    for topic in ("mixed", "hand-mixed", "v1-append-time"):
        expected = kafka["clean"][topic].records
        shown = kafka_anchor.tool(
            "kafka-console-consumer",
            *("--bootstrap-server", ottla.address, "--topic", topic, "--from-beginning"),
            *("--max-messages", str(len(expected)), "--timeout-ms", "30000"),
            *("--formatter-property", "print.offset=true", "--formatter-property", "print.timestamp=true"),
            *("--formatter-property", "print.value=false"),
        )
        offsets = [line for line in shown.splitlines() if "Offset:" in line]
        assert len(offsets) == len(expected), shown[-2000:]
